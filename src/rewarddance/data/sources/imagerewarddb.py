"""ImageRewardDB (THUDM/ImageRewardDB on Hugging Face, Apache-2.0): one row an image, grouped by prompt.

Traps: the parquet has one row per image, rows of a prompt need not be neighbours, and rank 1 is the best. Equal ranks
are kept as ties (the authors drop them). The project's repository has another layout, a JSON list with `generations`
and `ranking`, often in the order of the ranking; both are read.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewarddance.core.types import Media
from rewarddance.data.records import ComparisonRecord
from rewarddance.data.row_files import json_rows, parquet_rows
from rewarddance.data.rows import (
    InputFile,
    PublishedRow,
    RawRow,
    SkippedRow,
    Source,
    number_field,
    numbers_field,
    optional_number,
    text_field,
    texts_field,
)

_DIMENSIONS: Mapping[str, str] = {
    "overall_rating": "overall",
    "image_text_alignment_rating": "alignment",
    "fidelity_rating": "fidelity",
}


def read_rows(file: InputFile) -> Iterator[RawRow]:
    """The JSON list as it is, or the parquet's images gathered by `prompt_id`, in order of first appearance."""
    if file.path.suffix.lower() == ".json":
        yield from json_rows(file)
        return
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in parquet_rows(file, ("image_path", "prompt_id", "prompt", "rank"), tuple(_DIMENSIONS)):
        groups.setdefault(row.fields["prompt_id"], []).append(row.fields)
    for position, (prompt_id, images) in enumerate(groups.items()):
        yield RawRow(position, {"prompt_id": prompt_id, "prompt": images[0]["prompt"], "images": images})


def parse_row(row: RawRow) -> PublishedRow | SkippedRow:
    """All images of one prompt."""
    return _parse_group(row) if "images" in row.fields else _parse_list(row)


def _parse_group(row: RawRow) -> PublishedRow | SkippedRow:
    images = row.fields["images"]
    prompt_id = text_field(row.fields, "prompt_id")
    if len(images) < 2:
        return SkippedRow("only one image of the prompt")
    record = ComparisonRecord(
        id=prompt_id,
        prompt=text_field(row.fields, "prompt"),
        candidates=tuple(Media(Path(text_field(image, "image_path"))) for image in images),
        ranks=tuple(number_field(image, "rank") for image in images),
        ratings=_ratings(images),
        group_id=prompt_id,
    )
    return PublishedRow(record)


def _ratings(images: list[Mapping[str, Any]]) -> dict[str, tuple[float, ...]]:
    """Ratings of the dimensions in which every image has one; higher is better."""
    ratings = {}
    for column, dimension in _DIMENSIONS.items():
        numbers = [optional_number(image, column) for image in images]
        rated = tuple(number for number in numbers if number is not None)
        if len(rated) == len(images):
            ratings[dimension] = rated
    return ratings


def _parse_list(row: RawRow) -> PublishedRow | SkippedRow:
    paths = texts_field(row.fields, "generations")
    if len(paths) < 2:
        return SkippedRow("only one image of the prompt")
    prompt_id = text_field(row.fields, "id")
    record = ComparisonRecord(
        id=prompt_id,
        prompt=text_field(row.fields, "prompt"),
        candidates=tuple(Media(Path(path)) for path in paths),
        ranks=numbers_field(row.fields, "ranking"),
        group_id=prompt_id,
    )
    return PublishedRow(record)


IMAGEREWARDDB = Source(
    name="imagerewarddb",
    summary="ImageRewardDB: rankings of 4 to 9 images of 8.9 thousand prompts, with ratings of alignment and fidelity",
    files={split: (f"metadata-{split}.parquet", f"{split}.json") for split in ("train", "validation", "test")},
    default_splits=("train", "validation", "test"),
    rows=read_rows,
    parse=parse_row,
    media_folders=(".", "images"),
)
