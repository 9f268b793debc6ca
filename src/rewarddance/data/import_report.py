"""What an import did: counts by reason, every unusable row and medium by name, and whether it was accepted."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rewarddance.core.files import errors_named, write_json_atomic
from rewarddance.data.records import ComparisonRecord

REPORT_NAME = "import_report.json"
PROBLEMS_NAME = "import_problems.jsonl"

_LISTED = 1_000
"""Problems in the report itself; `import_problems.jsonl` has every one."""

_LOPSIDED = 0.8
_LOPSIDED_FROM = 50


@dataclass(frozen=True, slots=True)
class ImportProblem:
    """A row or a medium that could not be used.

    Attributes:
        row: File and number of the row, from 0.
        name: Path of the medium as published, or of the row's file.
        reason: `missing`, `oversized`, `unreadable`, `escapes_root` or `malformed_row`.
        message: One line.
    """

    row: str
    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        source: Name of the data set.
        inputs: Files that were read.
        out: Folder of the comparisons.
        seed: Seed of the candidates' order.
        order_is_random: Whether the candidates' order was drawn anew.
        rows: Rows read.
        records: Records written.
        comparisons: Comparisons they stand for.
        choices: Comparisons by choice, `none` for those without one.
        skipped: Rows without a judgement, by reason; not errors.
        bad: Problems by reason.
        notes: Fields that were left out and the like, by text.
        bad_rows: Rows that had a problem, also those of which enough was left.
        bad_share: `bad_rows` over the rows that hold a judgement.
        max_bad_share: The share above which the import fails.
        problems: The first thousand problems.
        is_accepted: Whether comparisons were written.
    """

    source: str
    inputs: tuple[str, ...]
    out: str
    seed: int
    order_is_random: bool
    rows: int
    records: int
    comparisons: int
    choices: dict[str, int]
    skipped: dict[str, int]
    bad: dict[str, int]
    notes: dict[str, int]
    bad_rows: int
    bad_share: float
    max_bad_share: float
    problems: tuple[ImportProblem, ...]
    is_accepted: bool

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should look at, one line each."""
        judged = self.choices.get("first", 0) + self.choices.get("second", 0)
        more = max(("first", "second"), key=lambda choice: self.choices.get(choice, 0))
        lines = [f"{count} rows: {text}" for text, count in self.notes.items()]
        if judged >= _LOPSIDED_FROM and self.choices[more] > _LOPSIDED * judged:
            share = self.choices[more] / judged
            lines.append(f"{share:.0%} of the choices are {more!r}: does the order of the media tell the winner?")
        return tuple(lines)

    def to_json(self) -> dict[str, object]:
        """The report for a file, warnings included."""
        return {**asdict(self), "warnings": list(self.warnings)}

    def write(self, folder: Path) -> None:
        """Write `import_report.json`."""
        write_json_atomic(folder / REPORT_NAME, self.to_json())


@dataclass(slots=True)
class ImportTally:
    """The counts behind a report while rows pass; problems go to their file at once."""

    problems_file: Path
    rows: int = 0
    records: int = 0
    comparisons: int = 0
    bad_rows: int = 0
    choices: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    problems: list[ImportProblem] = field(default_factory=list)

    def add_record(self, record: ComparisonRecord) -> None:
        """Count a record that is written."""
        self.records += 1
        self.comparisons += record.pair_count
        self.choices.update(pair.choice or "none" for pair in record.pairs())

    def add_problems(self, problems: list[ImportProblem]) -> None:
        """Count and list the problems of one row."""
        self.bad_rows += bool(problems)
        with errors_named(self.problems_file), self.problems_file.open("a", encoding="utf-8") as file:
            for problem in problems:
                self.bad[problem.reason] += 1
                file.write(json.dumps(asdict(problem), ensure_ascii=False) + "\n")
                if len(self.problems) < _LISTED:
                    self.problems.append(problem)

    @property
    def bad_share(self) -> float:
        """Bad rows over rows that hold a judgement."""
        return self.bad_rows / max(1, self.rows - self.skipped.total())
