"""One import for all public data sets: read, check media, draw the order, count, write.

What cannot be used is listed by name and counted, and the import goes on. Above a share of such rows it fails, after
its report is written, and leaves no comparisons behind.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.media import DEFAULT_LIMITS, MediaLimits
from rewarddance.core.seeding import derive_seed
from rewarddance.core.types import Media
from rewarddance.data.comparisons import refuse_to_replace, write_comparisons
from rewarddance.data.import_report import PROBLEMS_NAME, ImportProblem, ImportReport, ImportTally
from rewarddance.data.media_store import MediaMode, MediaProblem, MediaStore, StoreSettings, Verification
from rewarddance.data.records import ComparisonRecord
from rewarddance.data.rows import InputFile, PublishedRow, RawRow, SkippedRow, Source, content_id
from rewarddance.data.sources import SOURCES
from rewarddance.data.splits import normalise_prompt

_PROGRESS_ROWS = 100


def import_source(
    source: str,
    path: Path,
    out: Path,
    *,
    seed: int = 0,
    split: str | None = None,
    max_bad_share: float = 0.05,
    limit: int | None = None,
    media: MediaMode = "reference",
    media_root: Path | None = None,
    verify: Verification = "header",
    hash_media: bool = True,
    randomise_order: bool | None = None,
    overwrite: bool = False,
    limits: MediaLimits = DEFAULT_LIMITS,
    on_progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Turn a public data set, as published, into comparisons.

    Args:
        source: A key of `SOURCES`.
        path: The data set's folder, or one file of it.
        out: Folder that gets `comparisons.parquet`, `dataset.json` and the reports.
        seed: Seed of the candidates' order; each row's order depends on it and on the row alone.
        split: The split to read from a folder, or the name of the split of a single file.
        max_bad_share: Share of bad rows in [0, 1] above which the import fails.
        limit: Stop after this many records.
        media: Leave the media where they are, or hard-link or copy them to `out/media`.
        media_root: Where the media paths start, when it is not the file's folder.
        verify: Check headers only, or decode everything.
        hash_media: Store each file's hash, which the split check needs; reads every file once.
        randomise_order: Overrides the data set's own rule.
        overwrite: Replace comparisons that `out` holds already.
        limits: Media over these limits are bad.
        on_progress: Called with the number of rows read, now and then and at the end.

    Raises:
        UsageError: An unknown data set, or `out` holds comparisons.
        DataError: Files are missing or of another layout; or too many rows are bad, or none is good.
    """
    chosen = _source_of(source)
    if not overwrite:
        refuse_to_replace(out, "choose another folder, or overwrite them")
    inputs = find_inputs(chosen, path, split, media_root)
    out.mkdir(parents=True, exist_ok=True)
    (out / PROBLEMS_NAME).write_text("", encoding="utf-8")
    run = _Import(
        source=chosen,
        inputs=inputs,
        out=out,
        seed=seed,
        is_randomised=chosen.randomises_order if randomise_order is None else randomise_order,
        limit=limit,
        max_bad_share=max_bad_share,
        store=MediaStore(StoreSettings(out, media, verify, hash_media, limits)),
        tally=ImportTally(out / PROBLEMS_NAME),
        on_progress=on_progress or (lambda rows: None),
    )
    write_comparisons(out, run.records())
    report = run.report(is_accepted=True)
    report.write(out)
    return report


def find_inputs(source: Source, path: Path, split: str | None, media_root: Path | None) -> tuple[InputFile, ...]:
    """The files to read.

    Args:
        source: The data set.
        path: Its folder, or one file.
        split: One split, or None for the data set's usual ones.
        media_root: Where media paths start; None for beside the file.

    Raises:
        DataError: There are none; the message names what was looked for.
    """
    if path.is_file():
        return (_input_file(source, path, split or _split_of(source, path), media_root or path.parent),)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; give the data set's folder, or one of its files")
    if not source.files:
        raise DataError(f"{path}: {source.name} reads one file; name it instead of the folder")
    if split is not None and split not in source.files:
        raise DataError(f"{source.name} has no split {split!r}; there are: {', '.join(source.files)}")
    found = []
    for name in source.default_splits if split is None else (split,):
        matches = (sorted(path.glob(pattern)) for pattern in source.files[name])
        found += [_input_file(source, file, name, media_root or path) for file in next(filter(None, matches), [])]
    if not found:
        wanted = (source.files[name][0] for name in ([split] if split else source.default_splits))
        raise DataError(f"{path}: no {source.name} files; looked for {', '.join(wanted)}")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Import:
    source: Source
    inputs: tuple[InputFile, ...]
    out: Path
    seed: int
    is_randomised: bool
    limit: int | None
    max_bad_share: float
    store: MediaStore
    tally: ImportTally
    on_progress: Callable[[int], None]

    def records(self) -> Iterator[ComparisonRecord]:
        """Every usable record; at the end fails if too many rows were bad."""
        seen: dict[str, int] = {}
        for file, row in self._rows():
            record = self._record_of(file, row)
            if record is None:
                continue
            seen[record.id] = seen.get(record.id, 0) + 1
            if seen[record.id] > 1:
                record = replace(record, id=f"{record.id}+{seen[record.id]}")
                self.tally.notes["same content or id as an earlier row, kept under a new id"] += 1
            self.tally.add_record(record)
            yield record
        self.on_progress(self.tally.rows)
        self._refuse_if_bad()

    def _rows(self) -> Iterator[tuple[InputFile, RawRow]]:
        for file in self.inputs:
            for row in self.source.rows(file):
                if self.limit is not None and self.tally.records >= self.limit:
                    return
                self.tally.rows += 1
                if self.tally.rows % _PROGRESS_ROWS == 0:
                    self.on_progress(self.tally.rows)
                yield file, row

    def _record_of(self, file: InputFile, row: RawRow) -> ComparisonRecord | None:
        origin = f"{file.path.name}#{row.position}"
        try:
            if row.problem is not None:
                raise DataError(row.problem)
            published = self.source.parse(row)
        except DataError as error:
            message = f"{file.path.name} row {row.position}: {error}"
            self.tally.add_problems([ImportProblem(origin, file.path.name, "malformed_row", message)])
            return None
        if isinstance(published, SkippedRow):
            self.tally.skipped[published.reason] += 1
            return None
        self.tally.notes.update(published.notes)
        record = self._with_media(file, published, origin)
        return None if record is None else self._named(file, record, origin)

    def _with_media(self, file: InputFile, published: PublishedRow, origin: str) -> ComparisonRecord | None:
        """The record with checked media in their new order; without its broken candidates if two or more are left."""
        record = published.record
        found = [self._checked(file, media, published.embedded) for media in record.candidates]
        source_media = None if record.source_media is None else self._checked(file, record.source_media, {})
        problems = [one for one in (*found, source_media) if isinstance(one, MediaProblem)]
        if problems:
            self.tally.add_problems([ImportProblem(origin, one.name, one.reason, one.message) for one in problems])
        kept = [index for index, one in enumerate(found) if isinstance(one, Media)]
        if len(kept) < 2 or isinstance(source_media, MediaProblem):
            return None
        ready = tuple(one if isinstance(one, Media) else record.candidates[index] for index, one in enumerate(found))
        record = replace(record, candidates=ready, source_media=source_media)
        shown = record.reordered(self._order(published.record, kept))
        if record.rationale is not None and shown.rationale is None:
            self.tally.notes["rationale left out: it names a medium in words that cannot change places"] += 1
        return shown

    def _checked(self, file: InputFile, media: Media, embedded: Mapping[Path, bytes]) -> Media | MediaProblem:
        data = embedded.get(media.path)
        if data is not None:
            return self.store.from_bytes(media, data)
        return self.store.from_file(media, file.media_folders)

    def _order(self, record: ComparisonRecord, kept: list[int]) -> tuple[int, ...]:
        """A row's order depends on the seed and the row: not on its place in the file, nor on the rows around it."""
        if not self.is_randomised:
            return tuple(kept)
        return tuple(
            sorted(kept, key=lambda index: derive_seed(self.seed, "order", self.source.name, record.id, index))
        )

    def _named(self, file: InputFile, record: ComparisonRecord, origin: str) -> ComparisonRecord:
        return replace(
            record,
            id=f"{self.source.name}-{record.id}",
            split=record.split or file.split,
            source=self.source.name,
            origin=origin,
            # Comparisons of one prompt are not independent, whichever data set they come from.
            group_id=record.group_id or f"prompt-{content_id(normalise_prompt(record.prompt), [])}",
        )

    def _refuse_if_bad(self) -> None:
        tally = self.tally
        if tally.records and tally.bad_share <= self.max_bad_share:
            return
        self.report(is_accepted=False).write(self.out)
        example = f"; first: {tally.problems[0].message}" if tally.problems else ""
        rows = tally.rows - tally.skipped.total()
        if tally.bad_share > self.max_bad_share:
            said = f"{tally.bad_rows} of {rows} rows are bad, over the limit of {self.max_bad_share:.0%}"
        else:
            said = f"no comparisons in {tally.rows} rows, {tally.skipped.total()} of them without a judgement"
        raise DataError(f"{self.source.name}: {said}{example}; see {self.out / 'import_report.json'}")

    def report(self, is_accepted: bool) -> ImportReport:
        tally = self.tally
        return ImportReport(
            source=self.source.name,
            inputs=tuple(str(file.path) for file in self.inputs),
            out=str(self.out),
            seed=self.seed,
            order_is_random=self.is_randomised,
            rows=tally.rows,
            records=tally.records,
            comparisons=tally.comparisons,
            choices=dict(tally.choices),
            skipped=dict(tally.skipped),
            bad=dict(tally.bad),
            notes=dict(tally.notes),
            bad_rows=tally.bad_rows,
            bad_share=tally.bad_share,
            max_bad_share=self.max_bad_share,
            problems=tuple(tally.problems),
            is_accepted=is_accepted,
        )


def _source_of(name: str) -> Source:
    if name not in SOURCES:
        raise UsageError(f"unknown data set {name!r}; there are: {', '.join(SOURCES)}")
    return SOURCES[name]


def _split_of(source: Source, path: Path) -> str:
    """The split whose file pattern fits the name, else the name itself."""
    for split, patterns in source.files.items():
        if any(fnmatch(path.name, Path(pattern).name) for pattern in patterns):
            return split
    return path.stem


def _input_file(source: Source, path: Path, split: str, root: Path) -> InputFile:
    folders = tuple((root / folder.format(split=split)).absolute() for folder in source.media_folders)
    return InputFile(path=path, split=split, media_folders=folders)
