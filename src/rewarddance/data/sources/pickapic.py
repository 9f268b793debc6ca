"""Pick-a-Pic v1 and v2 (yuvalkirstain/pickapic_v1, _v2 on Hugging Face): parquet with the JPEG bytes in each row.

Traps: rows with `has_label` false hold no judgement; 0.5/0.5 is a tie; prompts repeat, and
`num_example_per_prompt` undoes it as a weight. The `_no_images` variants hold addresses that are dead. People saw the
images in the stored order, so it is kept.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewarddance.core.errors import DataError
from rewarddance.core.types import Choice, Media
from rewarddance.data.records import ComparisonRecord
from rewarddance.data.row_files import parquet_rows
from rewarddance.data.rows import (
    InputFile,
    PublishedRow,
    RawRow,
    SkippedRow,
    Source,
    content_id,
    number_field,
    optional_number,
    optional_text,
    text_field,
)

_REQUIRED = ("caption", "jpg_0", "jpg_1", "label_0", "label_1", "has_label", "image_0_uid", "image_1_uid")
_OPTIONAL = ("model_0", "model_1", "ranking_id", "num_example_per_prompt")
_SPLITS = ("train", "validation", "test", "validation_unique", "test_unique")


def read_rows(file: InputFile) -> Iterator[RawRow]:
    """Rows with their images; a `_no_images` file is refused for its missing `jpg_0` and `jpg_1`."""
    return parquet_rows(file, _REQUIRED, _OPTIONAL)


def parse_row(row: RawRow) -> PublishedRow | SkippedRow:
    """One pair in the order in which it was shown."""
    fields = row.fields
    if fields["has_label"] is not True:
        return SkippedRow("has_label is false")
    prompt = text_field(fields, "caption")
    names = [f"{text_field(fields, f'image_{index}_uid')}.jpg" for index in (0, 1)]
    examples = optional_number(fields, "num_example_per_prompt")
    choice, soft = _label(row)
    record = ComparisonRecord(
        id=optional_text(fields, "ranking_id") or content_id(prompt, names),
        prompt=prompt,
        candidates=tuple(
            Media(Path(name), generator=optional_text(fields, f"model_{index}")) for index, name in enumerate(names)
        ),
        choice=choice,
        second_preference=soft,
        weight=1.0 if examples is None or examples < 1 else 1.0 / examples,
    )
    return PublishedRow(
        record, {Path(name): _bytes_of(fields[f"jpg_{index}"], index) for index, name in enumerate(names)}
    )


def _label(row: RawRow) -> tuple[Choice, float | None]:
    first, second = (number_field(row.fields, name) for name in ("label_0", "label_1"))
    if min(first, second) < 0 or abs(first + second - 1.0) > 1e-6:
        raise DataError(f"labels {first:g} and {second:g} do not add up to 1")
    if first == second:
        return "tie", None
    # Published labels are 0, 0.5 and 1; anything between is kept as what it says, a share.
    return ("first" if first > second else "second"), (None if second in (0.0, 1.0) else second)


def _bytes_of(value: Any, index: int) -> bytes:
    if not isinstance(value, bytes):
        raise DataError(f"field 'jpg_{index}' holds no image")
    return value


PICKAPIC = Source(
    name="pickapic",
    summary="Pick-a-Pic v1 or v2: pairs judged by the users of a web page, images inside the parquet files",
    files={split: (f"data/{split}-*.parquet", f"{split}-*.parquet", f"{split}.parquet") for split in _SPLITS},
    default_splits=_SPLITS,
    rows=read_rows,
    parse=parse_row,
    randomises_order=False,
)
