"""Tiny models with a vocabulary as wide as real ones."""

import shutil
from pathlib import Path

import transformers


def widened(base: Path, folder: Path, vocabulary: int) -> Path:
    """The same model with a wider vocabulary head; real ones have 150,000 rows, the tests' tokenizer a few hundred."""
    shutil.copytree(base, folder)
    model = transformers.InternVLForConditionalGeneration.from_pretrained(base)
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    model.save_pretrained(folder)
    return folder
