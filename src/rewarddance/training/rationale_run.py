"""Rationales for a folder of comparisons: a teacher writes them, a judge reads them, the consistent ones are kept."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rewarddance.core.files import sha256_of, write_json_atomic
from rewarddance.core.types import Comparison
from rewarddance.data.comparisons import PARQUET_NAME, ComparisonSet, refuse_to_replace
from rewarddance.data.prompt_rows import stored_settings
from rewarddance.data.rationale_exchanges import EXCHANGES_NAME, ExchangeStore
from rewarddance.data.rationale_writing import write_with_rationales
from rewarddance.training.rationale_collection import Collection, Teacher, collect_rationales
from rewarddance.training.rationale_filter import Filtered, RationaleJudge, filter_rationales

SUMMARY_NAME = "rationales.json"

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many are done, and of how many."""


@dataclass(frozen=True, slots=True)
class NamedTeacher:
    """A teacher, with a name that changes with everything that its rationales depend on.

    Attributes:
        name: See above.
        write: Writes rationales.
        is_wrong: Of a teacher that plants wrong rationales: whether a comparison's is one.
    """

    name: str
    write: Teacher
    is_wrong: Callable[[Comparison], bool] | None = None


@dataclass(frozen=True, slots=True)
class NamedJudge:
    """A judge of rationales, with a name that changes with everything that its verdicts depend on."""

    name: str
    read: RationaleJudge


@dataclass(frozen=True, slots=True)
class RationaleSummary:
    """What became of every comparison; also written to `rationales.json`.

    Attributes:
        teacher: Name of the teacher.
        judge: Name of the judge.
        comparisons: All.
        unanchored: Without a choice to explain.
        unswappable: With a rationale that names a medium in words that cannot change places; left out.
        written: With a rationale to be read.
        failures: Comparisons without one, by kind of failure.
        kept: Rationales that led the judge to the known choice.
        contradicted: Rationales that led it to the other.
        undecided: Rationales from which it could not tell.
        unread: Rationales to which it gave no reply.
        share_kept: Of those that were read; None when none was.
        share_kept_by_choice: The same where the first, and where the second medium was chosen.
        asked: Replies that this run brought; the rest was stored before.
        planted: Wrong rationales that the teacher has planted and that were read; None for a teacher that plants none.
        planted_kept: Those of them that were kept.
    """

    teacher: str
    judge: str
    comparisons: int
    unanchored: int
    unswappable: int
    written: int
    failures: dict[str, int]
    kept: int
    contradicted: int
    undecided: int
    unread: int
    share_kept: float | None
    share_kept_by_choice: dict[str, float | None]
    asked: int
    planted: int | None = None
    planted_kept: int | None = None

    @property
    def read(self) -> int:
        """Rationales to which the judge replied."""
        return self.written - self.unread

    @property
    def failed_share(self) -> float:
        """Of the comparisons with a choice: no rationale, or none that could be read."""
        anchored = self.comparisons - self.unanchored
        return (sum(self.failures.values()) + self.unread) / anchored if anchored else 0.0


def make_rationales(
    comparisons: ComparisonSet,
    folder: Path,
    teacher: NamedTeacher,
    judge: NamedJudge,
    *,
    only_with_rationale: bool = False,
    on_progress: Progress | None = None,
) -> RationaleSummary:
    """Ask for what is missing, filter, and write the comparisons with their rationales.

    Args:
        comparisons: With known choices; others pass through without a rationale.
        folder: Gets the exchanges as they come and, at the end, summary and comparisons, which carry what was kept
            and no rationale that they had before.
        teacher: Writes rationales.
        judge: Reads them.
        only_with_rationale: Leave out comparisons without one.
        on_progress: Told how far it is.

    Raises:
        ModelError: Teacher or judge gives no replies any more; what came is stored.
        UsageError: Another process writes to the folder, or it holds comparisons that no such run has written, or one
            with other comparisons.
        DataError: Nothing is left to write.
    """
    source = _source_of(comparisons)
    _refuse_other_comparisons(comparisons, folder, source)
    shown = list(comparisons)
    with ExchangeStore(folder) as store:
        collected = collect_rationales(
            teacher.write, teacher.name, shown, store, on_progress=_told(on_progress, "rationales")
        )
        filtered = filter_rationales(
            judge.read, judge.name, shown, collected.rationales, store, on_progress=_told(on_progress, "verdicts")
        )
    kept = {name: text for name, text in collected.rationales.items() if name in filtered.kept}
    summary = _summary(comparisons, teacher, judge, collected, filtered)
    write_with_rationales(comparisons, kept, folder, only_with_rationale=only_with_rationale)
    write_json_atomic(folder / SUMMARY_NAME, {**asdict(summary), "failed_share": summary.failed_share, **source})
    return summary


def _source_of(comparisons: ComparisonSet) -> dict[str, str]:
    """What rationales are written for, as `rationales.json` names it: where it lies, and what it holds."""
    stored = comparisons.folder / PARQUET_NAME
    digest = {"data_sha256": sha256_of(stored)} if stored.is_file() else {}
    return {"data": str(comparisons.folder.resolve()), **digest}


def _refuse_other_comparisons(comparisons: ComparisonSet, folder: Path, source: Mapping[str, str]) -> None:
    """Exchanges tell the output of an earlier run, which is continued; what is read is never written over.

    Comparisons that lie elsewhere now, or have become more in their place, are the same ones.
    """
    is_read = folder.exists() and folder.samefile(comparisons.folder)
    if is_read or not (folder / EXCHANGES_NAME).exists():
        refuse_to_replace(folder)
    before = stored_settings(folder / SUMMARY_NAME) or {}
    if "data" in before and all(before.get(name) != value for name, value in source.items()):
        refuse_to_replace(folder, f"those of {before['data']} with rationales; choose another folder")


def _summary(
    comparisons: ComparisonSet, teacher: NamedTeacher, judge: NamedJudge, collected: Collection, filtered: Filtered
) -> RationaleSummary:
    by_choice: dict[str, list[bool]] = {"first": [], "second": []}
    planted: list[bool] = []
    for comparison in comparisons:
        verdict = filtered.verdicts.get(comparison.id, "failed")
        if comparison.choice in by_choice and verdict != "failed":
            by_choice[comparison.choice].append(verdict == "kept")
            if teacher.is_wrong is not None and teacher.is_wrong(comparison):
                planted.append(verdict == "kept")
    return RationaleSummary(
        teacher=teacher.name,
        judge=judge.name,
        comparisons=len(comparisons),
        unanchored=collected.unanchored,
        unswappable=len(collected.unswappable),
        written=len(collected.rationales),
        failures=dict(sorted(Counter(collected.failures.values()).items())),
        kept=filtered.count("kept"),
        contradicted=filtered.count("contradicted"),
        undecided=filtered.count("undecided"),
        unread=filtered.count("failed"),
        share_kept=filtered.share_kept,
        share_kept_by_choice={name: sum(found) / len(found) if found else None for name, found in by_choice.items()},
        asked=collected.asked + filtered.asked,
        planted=None if teacher.is_wrong is None else len(planted),
        planted_kept=None if teacher.is_wrong is None else sum(planted),
    )


def _told(on_progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress(what, done, total)
