"""HPDv3 (MizzenAI/HPDv3 on Hugging Face, MIT): JSON lists of pairs, images unpacked from `images.tar.gz.*` beside them.

Traps: `path1` is always the preferred image, so a model trained on the stored order learns "the first wins".
`choice_dist` and `confidence` are null or absent in parts of the data and in the test list.
"""

from pathlib import Path

from rewarddance.core.types import Media
from rewarddance.data.records import ComparisonRecord
from rewarddance.data.row_files import json_rows
from rewarddance.data.rows import (
    PublishedRow,
    RawRow,
    Source,
    content_id,
    numbers_field,
    optional_number,
    optional_text,
    text_field,
)


def parse_row(row: RawRow) -> PublishedRow:
    """One pair; the first candidate is the preferred one."""
    fields = row.fields
    prompt = text_field(fields, "prompt")
    paths = [text_field(fields, name) for name in ("path1", "path2")]
    generators = [optional_text(fields, name) for name in ("model1", "model2")]
    soft, notes = _soft_label(row)
    record = ComparisonRecord(
        id=content_id(prompt, paths),
        prompt=prompt,
        candidates=tuple(
            Media(Path(path), generator=generator) for path, generator in zip(paths, generators, strict=True)
        ),
        choice="first",
        second_preference=soft,
        confidence=optional_number(fields, "confidence"),
    )
    return PublishedRow(record, notes=notes)


def _soft_label(row: RawRow) -> tuple[float | None, tuple[str, ...]]:
    """Share of the votes for `path2`, from `choice_dist` = votes for path1 and path2."""
    if row.fields.get("choice_dist") is None:
        return None, ()
    votes = numbers_field(row.fields, "choice_dist")
    if len(votes) != 2 or min(votes) < 0 or sum(votes) == 0:
        return None, ("choice_dist is not two vote counts, soft label left out",)
    share = votes[1] / sum(votes)
    if share > 0.5:
        return None, ("choice_dist contradicts path1, soft label left out",)
    return share, ()


HPDV3 = Source(
    name="hpdv3",
    summary="HPDv3: 1.17 million pairs of text-to-image results; also HPDv3++ files, which have the same fields",
    files={
        "train": ("train.json",),
        "test": ("test.json",),
        "all": ("all.json",),
        "pickapic": ("pickapic.json",),
        "imagereward": ("imagereward.json",),
        "train_aes": ("train_aes.json",),
        "train_tf": ("train_tf.json",),
        "test_aes": ("test_aes.json",),
        "test_tf": ("test_tf.json",),
    },
    default_splits=("train", "test"),
    rows=json_rows,
    parse=parse_row,
)
