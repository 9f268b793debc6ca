"""HPDv2 (ymhao/HPDv2 on Hugging Face, Apache-2.0): `train.json` of pairs, `test.json` of rankings.

Traps: the lists differ. Train has `file_path` and `human_preference` (1 marks the preferred image); test has
`image_path`, `rank` (lower is better) and the single judges' `raw_annotations`. Names are bare, the images lie in
`train/` and `test/`. A few images are known to be damaged (00006811, 00168743, 00331911 and 00310087 .jpg).
"""

from itertools import combinations
from pathlib import Path

from rewarddance.core.errors import DataError
from rewarddance.core.types import Media
from rewarddance.data.records import ComparisonRecord
from rewarddance.data.row_files import json_rows
from rewarddance.data.rows import PublishedRow, RawRow, Source, content_id, numbers_field, text_field, texts_field


def parse_row(row: RawRow) -> PublishedRow:
    """A pair of the train list, or a ranking of the test list, told apart by their fields."""
    return _parse_ranking(row) if "image_path" in row.fields else _parse_pair(row)


def _parse_pair(row: RawRow) -> PublishedRow:
    prompt = text_field(row.fields, "prompt")
    paths = texts_field(row.fields, "file_path")
    preference = numbers_field(row.fields, "human_preference")
    if sorted(preference) != [0, 1]:
        raise DataError("field 'human_preference' does not mark one of two images")
    record = ComparisonRecord(
        id=content_id(prompt, paths),
        prompt=prompt,
        candidates=tuple(Media(Path(path)) for path in paths),
        choice="first" if preference[0] == 1 else "second",
    )
    return PublishedRow(record)


def _parse_ranking(row: RawRow) -> PublishedRow:
    prompt = text_field(row.fields, "prompt")
    paths = texts_field(row.fields, "image_path")
    ranks = numbers_field(row.fields, "rank")
    judges, notes = _judges(row, ranks)
    record = ComparisonRecord(
        id=content_id(prompt, paths),
        prompt=prompt,
        candidates=tuple(Media(Path(path)) for path in paths),
        ranks=ranks,
        annotator_ranks=judges,
    )
    return PublishedRow(record, notes=notes)


def _judges(row: RawRow, ranks: tuple[float, ...]) -> tuple[tuple[tuple[float, ...], ...], tuple[str, ...]]:
    """The single judges' ranks, if their mean agrees with the published rank.

    The data card does not say whether a judge's list holds ranks of images or images by rank; lists of the second
    kind would give wrong soft labels, and show themselves by contradicting `rank`.
    """
    annotations = row.fields.get("raw_annotations")
    if not annotations:
        return (), ()
    if not isinstance(annotations, list) or not all(isinstance(entry, dict) for entry in annotations):
        raise DataError("field 'raw_annotations' is not a list of objects")
    judges = tuple(numbers_field(entry, "rank") for entry in annotations)
    if any(len(judge) != len(ranks) for judge in judges):
        return (), ("raw_annotations have another length than rank, soft label left out",)
    sums = [sum(judge[index] for judge in judges) for index in range(len(ranks))]
    if any((sums[i] - sums[j]) * (ranks[i] - ranks[j]) < 0 for i, j in combinations(range(len(ranks)), 2)):
        return (), ("raw_annotations contradict rank, soft label left out",)
    return judges, ()


HPDV2 = Source(
    name="hpdv2",
    summary="HPDv2: 645 thousand pairs to train on, rankings of several images to test on",
    files={"train": ("train.json",), "test": ("test.json",)},
    default_splits=("train", "test"),
    rows=json_rows,
    parse=parse_row,
    media_folders=("{split}", "."),
)
