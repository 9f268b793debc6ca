"""Your own comparisons: JSON lines, a JSON list, or CSV with the same names as columns. See docs/data.md."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewarddance.core.errors import DataError
from rewarddance.core.media import CLIP_SUFFIXES
from rewarddance.core.types import Choice, Media
from rewarddance.data.records import ComparisonRecord
from rewarddance.data.row_files import csv_rows, json_line_rows, json_rows
from rewarddance.data.rows import (
    InputFile,
    PublishedRow,
    RawRow,
    Source,
    content_id,
    numbers_field,
    optional_number,
    optional_text,
    text_field,
)

_DIMENSION = "dimension."
_NUMBERS = ("second_preference", "confidence", "weight")


def read_rows(file: InputFile) -> Iterator[RawRow]:
    """Rows by the file's ending: `.jsonl`, `.json` or `.csv`."""
    readers = {".jsonl": json_line_rows, ".json": json_rows, ".csv": csv_rows}
    reader = readers.get(file.path.suffix.lower())
    if reader is None:
        raise DataError(f"{file.path}: a comparison list ends in {', '.join(readers)}")
    return reader(file)


def parse_row(row: RawRow) -> PublishedRow:
    """A pair (`first`, `second`, `choice`) or a ranking (`candidates`, `ranks`)."""
    fields = {**row.fields, **_parsed_numbers(row.fields)}
    prompt = text_field(fields, "prompt")
    if fields.get("candidates") is not None:
        if not isinstance(fields["candidates"], list):
            raise DataError("field 'candidates' is not a list")
        candidates = tuple(_media(value, "candidates", None) for value in fields["candidates"])
        ranks, choice, soft = numbers_field(fields, "ranks"), None, None
    else:
        candidates = tuple(
            _media(fields.get(n), n, optional_text(fields, f"{n}_generator")) for n in ("first", "second")
        )
        ranks = None
        choice, soft = _judgement(fields)
    source_media = fields.get("source_media")
    weight = optional_number(fields, "weight")
    record = ComparisonRecord(
        id=optional_text(fields, "id") or content_id(prompt, [media.path.as_posix() for media in candidates]),
        prompt=prompt,
        candidates=candidates,
        choice=choice,
        ranks=ranks,
        second_preference=soft,
        dimensions=_dimensions(fields),
        instruction=optional_text(fields, "instruction"),
        source_media=None if source_media is None else _media(source_media, "source_media", None),
        confidence=optional_number(fields, "confidence"),
        weight=1.0 if weight is None else weight,
        group_id=optional_text(fields, "group_id"),
        split=optional_text(fields, "split"),
        rationale=optional_text(fields, "rationale"),
    )
    return PublishedRow(record)


def _parsed_numbers(fields: Mapping[str, Any]) -> dict[str, float]:
    """Numbers that CSV holds as text."""
    parsed = {}
    for name in _NUMBERS:
        if isinstance(fields.get(name), str):
            try:
                parsed[name] = float(fields[name])
            except ValueError:
                raise DataError(f"field {name!r} holds no finite number") from None
    return parsed


def _judgement(fields: Mapping[str, Any]) -> tuple[Choice | None, float | None]:
    soft = optional_number(fields, "second_preference")
    choice = optional_text(fields, "choice")
    is_unjudged = fields.get("choice", "") is None  # said, not forgotten
    if choice is None and soft is None and not _dimensions(fields) and not is_unjudged:
        raise DataError("there is no field 'choice'; give null where nobody has judged")
    if choice is None and soft is not None:
        choice = "tie" if soft == 0.5 else "second" if soft > 0.5 else "first"
    return None if choice is None else _choice(choice, "choice"), soft


def _dimensions(fields: Mapping[str, Any]) -> dict[str, Choice]:
    """From `dimensions`, an object, and from columns such as `dimension.structure`."""
    given = fields.get("dimensions") or {}
    if not isinstance(given, Mapping):
        raise DataError("field 'dimensions' is not an object")
    columns = {name.removeprefix(_DIMENSION): value for name, value in fields.items() if name.startswith(_DIMENSION)}
    return {str(name): _choice(value, f"{_DIMENSION}{name}") for name, value in {**given, **columns}.items() if value}


def _choice(value: object, name: str) -> Choice:
    choices: dict[object, Choice] = {"first": "first", "second": "second", "tie": "tie"}
    if not isinstance(value, str) or value not in choices:
        raise DataError(f"field {name!r} is {value!r}; it is first, second or tie")
    return choices[value]


def _media(value: object, name: str, generator: str | None) -> Media:
    """A path, or an object with `path` and perhaps `kind`, `generator`, `frames`, `fps`."""
    fields = value if isinstance(value, Mapping) else {"path": value}
    path = Path(text_field({name: fields.get("path")}, name))
    frames = optional_number(fields, "frames")
    kind = optional_text(fields, "kind") or ("clip" if path.suffix.lower() in CLIP_SUFFIXES else "image")
    if kind not in ("image", "clip"):
        raise DataError(f"kind {kind!r} of field {name!r}; it is image or clip")
    return Media(
        path,
        kind="clip" if kind == "clip" else "image",
        generator=optional_text(fields, "generator") or generator,
        frames=None if frames is None else int(frames),
        fps=optional_number(fields, "fps"),
    )


JSONL = Source(
    name="jsonl",
    summary="your own comparisons: .jsonl, .json or .csv with prompt, first, second, choice",
    files={},
    default_splits=(),
    rows=read_rows,
    parse=parse_row,
)
