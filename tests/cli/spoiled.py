"""Files that are not what they seem: models, pictures and comparisons, each spoiled in one way."""

import json
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rewarddance.data.storage import SCHEMA
from tests.tiny_models import PAD_TOKEN


class Trap:
    """When it is unpickled, a file appears."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def add_pickle(model: Path) -> Path:
    """Weights of the old format beside the safetensors; returns the file that appears if they are read."""
    sprung = model / "sprung"
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    return sprung


def remove_chat_format(model: Path) -> None:
    """No template, and no special tokens to build the family's own from."""
    (model / "chat_template.jinja").unlink()
    _edit(model / "tokenizer_config.json", lambda settings: settings.pop("extra_special_tokens", None))
    _edit(
        model / "tokenizer.json",
        lambda tokenizer: tokenizer.update(
            added_tokens=[token for token in tokenizer["added_tokens"] if token["content"] == PAD_TOKEN]
        ),
    )


def remove_yes(model: Path) -> None:
    """No spelling of yes stays a single token; the ids of all others stay."""

    def change(tokenizer: dict[str, Any]) -> None:
        vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
        spellings = [token for token in vocabulary if token.replace("Ġ", "").lower() == "yes"]
        tokenizer["model"]["merges"] = [parts for parts in merges if "".join(parts) not in spellings]
        for number, token in enumerate(spellings):
            vocabulary[f"unused{number}"] = vocabulary.pop(token)

    _edit(model / "tokenizer.json", change)


def write_huge_png(path: Path, width: int, height: int) -> None:
    """A PNG whose header is right and whose pixels are missing: whoever decodes it, calls it truncated."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, data) for kind, data in chunks))


def write_comparisons_without_rows(folder: Path) -> None:
    """A whole parquet file of the right columns, and nothing in it."""
    folder.mkdir()
    pq.write_table(SCHEMA.empty_table(), folder / "comparisons.parquet")


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
