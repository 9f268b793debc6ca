"""The parquet layout of comparison records, version 1: one row a record, media by path.

The schema only grows: a reader accepts files of its own version and older ones, and a new field is optional.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from rewarddance.core.types import Choice, Media, MediaKind
from rewarddance.data.records import ComparisonRecord

SCHEMA_VERSION = 1
VERSION_KEY = b"rewarddance.schema_version"

_MEDIA = pa.struct(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("generator", pa.string()),
        pa.field("frames", pa.int64()),
        pa.field("fps", pa.float64()),
        pa.field("sha256", pa.string()),
    ]
)

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("candidates", pa.list_(_MEDIA), nullable=False),
        pa.field("choice", pa.string()),
        pa.field("ranks", pa.list_(pa.float64())),
        pa.field("annotator_ranks", pa.list_(pa.list_(pa.float64()))),
        pa.field("second_preference", pa.float64()),
        pa.field("dimensions", pa.map_(pa.string(), pa.string())),
        pa.field("ratings", pa.map_(pa.string(), pa.list_(pa.float64()))),
        pa.field("instruction", pa.string()),
        pa.field("source_media", _MEDIA),
        pa.field("confidence", pa.float64()),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("group_id", pa.string()),
        pa.field("split", pa.string()),
        pa.field("source", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("rationale", pa.string()),
    ],
    metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()},
)

LATER_COLUMNS = ("rationale",)
"""Columns that older files of the same version lack."""


def record_to_row(record: ComparisonRecord) -> dict[str, Any]:
    """A record as a row of `SCHEMA`."""
    return {
        "id": record.id,
        "prompt": record.prompt,
        "candidates": [_media_to_row(media) for media in record.candidates],
        "choice": record.choice,
        "ranks": None if record.ranks is None else list(record.ranks),
        "annotator_ranks": [list(ranks) for ranks in record.annotator_ranks],
        "second_preference": record.second_preference,
        "dimensions": list(record.dimensions.items()),
        "ratings": [(name, list(ratings)) for name, ratings in record.ratings.items()],
        "instruction": None if record.instruction is None else str(record.instruction),
        "source_media": None if record.source_media is None else _media_to_row(record.source_media),
        "confidence": record.confidence,
        "weight": record.weight,
        "group_id": record.group_id,
        "split": record.split,
        "source": record.source,
        "origin": record.origin,
        "rationale": record.rationale,
    }


def row_to_record(row: Mapping[str, Any], folder: Path) -> ComparisonRecord:
    """A row of `SCHEMA` as a record.

    Args:
        row: Values as pyarrow gives them.
        folder: What the media's paths are relative to.
    """
    ranks = row["ranks"]
    source_media = row["source_media"]
    return ComparisonRecord(
        id=row["id"],
        prompt=row["prompt"],
        candidates=tuple(_row_to_media(media, folder) for media in row["candidates"]),
        choice=cast(Choice | None, row["choice"]),
        ranks=None if ranks is None else tuple(ranks),
        annotator_ranks=tuple(tuple(one) for one in row["annotator_ranks"] or ()),
        second_preference=row["second_preference"],
        dimensions=dict(row["dimensions"] or ()),
        ratings={name: tuple(ratings) for name, ratings in row["ratings"] or ()},
        instruction=_instruction_of(row["instruction"], folder),
        source_media=None if source_media is None else _row_to_media(source_media, folder),
        confidence=row["confidence"],
        weight=row["weight"],
        group_id=row["group_id"],
        split=row["split"],
        source=row["source"],
        origin=row["origin"],
        rationale=row["rationale"],
    )


def _instruction_of(stored: str | None, folder: Path) -> str | Path | None:
    """A name as it is; a file of criteria by its path, which starts at the data set's folder."""
    return folder / stored if stored is not None and stored.endswith((".yaml", ".yml")) else stored


def _media_to_row(media: Media) -> dict[str, Any]:
    return {
        "path": media.path.as_posix(),
        "kind": media.kind,
        "generator": media.generator,
        "frames": media.frames,
        "fps": media.fps,
        "sha256": media.sha256,
    }


def _row_to_media(row: Mapping[str, Any], folder: Path) -> Media:
    return Media(
        # An absolute stored path stays as it is.
        path=folder / row["path"],
        kind=cast(MediaKind, row["kind"]),
        generator=row["generator"],
        frames=row["frames"],
        fps=row["fps"],
        sha256=row["sha256"],
    )
