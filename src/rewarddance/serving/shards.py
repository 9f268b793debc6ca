"""A manifest in shards: each is judged by one worker at a time, and survives any number of its deaths.

A worker writes down which rows it is about to judge, judges them, and writes down their lines; both reach the disk.
After a death the next worker finds what was done, and which rows were in flight. Those are judged one by one from
then on, so that the row which kills its workers stands alone, and after a bounded number of deaths it gets a line
that says so instead of another worker. What was in flight when the whole job was stopped is no suspect: a death
counts only within one session of the driver.

A finished shard is one file that appears as a whole. The output is put together from all of them, and every row's key
is checked once more.
"""

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rewarddance.core.errors import DataError, RewardDanceError, UsageError
from rewarddance.core.files import append_durably, errors_named, sync_folder, write_bytes_atomic, write_json_atomic
from rewarddance.core.types import Judgement, Status
from rewarddance.data.prompt_rows import stored_settings
from rewarddance.serving.device_errors import has_lost_device
from rewarddance.serving.manifest import Judge, Manifest, is_failure, judge_rows, written_key

_log = logging.getLogger(__name__)

_JOB_FILE = "job.json"


@dataclass(frozen=True, slots=True)
class ShardJob:
    """A manifest, where it is judged, and how.

    Attributes:
        manifest: The rows.
        folder: Of the shards; on a cluster, one that every machine sees.
        shard_rows: Rows of a shard.
        batch_size: Rows that are judged and saved together.
        max_deaths: Workers that a row may kill before it is quarantined.
    """

    manifest: Manifest
    folder: Path
    shard_rows: int
    batch_size: int
    max_deaths: int

    @property
    def shards(self) -> range:
        """Numbers of all shards."""
        return range(-(-len(self.manifest) // self.shard_rows))

    def rows(self, shard: int) -> range:
        """Rows of a shard."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, len(self.manifest)))

    def finished_file(self, shard: int) -> Path:
        """Its lines of output, there when the shard is finished."""
        return self.folder / f"shard-{shard:07d}.jsonl"

    def journal_file(self, shard: int) -> Path:
        """What has happened to a shard that is not finished."""
        return self.folder / f"shard-{shard:07d}.journal"

    def journal_bytes(self, shard: int) -> int:
        """Size of the journal; 0 where there is none."""
        try:
            return self.journal_file(shard).stat().st_size
        except FileNotFoundError:
            return 0

    def pending(self) -> list[int]:
        """Shards that are not finished."""
        return [shard for shard in self.shards if not self.finished_file(shard).exists()]

    def open_folder(self) -> None:
        """Make the folder, or recognise it.

        Raises:
            UsageError: It holds shards of another manifest, model, instruction or size.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        first, last = self.manifest.key(0), self.manifest.key(len(self.manifest) - 1)
        told = {"manifest": self.manifest.sha256, "keys": [first, last], "shard_rows": self.shard_rows}
        file = self.folder / _JOB_FILE
        if not file.exists():
            write_json_atomic(file, told)
        elif stored_settings(file) != told:
            raise UsageError(
                f"{self.folder} has shards of another manifest, model, instruction or shard size, "
                f"or a damaged {_JOB_FILE}; delete it or choose another --out"
            )


@dataclass(slots=True)
class _Journal:
    """What a journal says.

    Attributes:
        lines: Output by row.
        deaths: By row, of the current session.
    """

    lines: dict[int, bytes] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)


def judge_shard(
    job: ShardJob, shard: int, judge: Judge, session: str, is_wanted: Callable[[], bool] = lambda: True
) -> int:
    """Judge what is left of a shard.

    Args:
        job: The job.
        shard: Its number.
        judge: Answers a batch of requests, in order.
        session: Changes when the driver is started again.
        is_wanted: Asked before every batch; False when the driver is gone, and the shard is left as it is.

    Returns:
        Rows of the shard that have a line.
    """
    if job.finished_file(shard).exists():
        return len(job.rows(shard))
    with job.journal_file(shard).open("a+b") as file:
        # A worker whose driver died may still be at it; the lock goes with its process.
        fcntl.flock(file, fcntl.LOCK_EX)
        if job.finished_file(shard).exists():  # it was, and finished the shard meanwhile
            job.journal_file(shard).unlink(missing_ok=True)
            return len(job.rows(shard))
        journal = _read_journal(file, session)
        for batch in _batches(job, shard, journal):
            if not is_wanted():
                return len(journal.lines)
            _append(file, [_entry({"begin": batch, "session": session})])
            judgements = _judged(job, judge, batch, journal)
            lines = [job.manifest.output_line(row, one) for row, one in zip(batch, judgements, strict=True)]
            _append(file, lines)
            journal.lines |= dict(zip(batch, lines, strict=True))
        write_bytes_atomic(job.finished_file(shard), b"".join(journal.lines[row] for row in job.rows(shard)))
        job.journal_file(shard).unlink(missing_ok=True)
    return len(job.rows(shard))


def judge_shard_persistently(
    job: ShardJob, shard: int, judge: Judge, session: str, is_wanted: Callable[[], bool] = lambda: True
) -> int:
    """`judge_shard`, where an error of the machine (out of memory, say) counts as a death.

    It ends, because every try either finishes the shard or counts one death more of a row. An error after which the
    process cannot use its device any more is raised: here, every row that is left would be blamed for it.
    """
    while True:
        try:
            return judge_shard(job, shard, judge, session, is_wanted)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RewardDanceError) or has_lost_device(error):
                raise
            _log.warning("shard %d: %s; its rows are judged one by one", shard, type(error).__name__)


def merge_shards(job: ShardJob, out: Path) -> int:
    """Put the output together and take the shards away.

    Args:
        job: Every shard of it is finished.
        out: Appears as a whole.

    Returns:
        Rows without a score.

    Raises:
        DataError: A row is missing, is there twice, or is another one. The shards are kept.
    """
    failed = 0
    descriptor, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp")
    try:
        with errors_named(out), os.fdopen(descriptor, "wb") as file:
            expected = 0
            for line in _finished_lines(job):
                if expected >= len(job.manifest) or written_key(line) != job.manifest.key(expected):
                    raise DataError(f"{job.folder}: the line of row {expected} is another one; delete the folder")
                file.write(line)
                failed += is_failure(line)
                expected += 1
            if expected != len(job.manifest):
                raise DataError(f"{job.folder}: {expected:,} lines for {len(job.manifest):,} rows; delete the folder")
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(out)
        sync_folder(out.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    shutil.rmtree(job.folder)
    return failed


def _finished_lines(job: ShardJob) -> Iterator[bytes]:
    for shard in job.shards:
        with job.finished_file(shard).open("rb") as file:
            yield from file


def _batches(job: ShardJob, shard: int, journal: _Journal) -> Iterator[list[int]]:
    """Rows without a line: suspects alone and last, so that the others are safe by then."""
    left = [row for row in job.rows(shard) if row not in journal.lines]
    clean = [row for row in left if not journal.deaths[row]]
    for start in range(0, len(clean), job.batch_size):
        yield clean[start : start + job.batch_size]
    for row in left:
        if journal.deaths[row]:
            yield [row]


def _judged(job: ShardJob, judge: Judge, batch: Sequence[int], journal: _Journal) -> list[Judgement]:
    deaths = journal.deaths[batch[0]]
    if deaths >= job.max_deaths:
        message = f"quarantined: {deaths} workers died while judging this row"
        return [Judgement(Status.FAILED, message=message) for _ in batch]
    return judge_rows(judge, job.manifest, batch)


def _read_journal(file: BinaryIO, session: str) -> _Journal:
    """What was done before; cuts off an entry that a kill left half written.

    Raises:
        DataError: An entry is damaged.
    """
    journal = _Journal()
    file.seek(0)
    complete_bytes = 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        complete_bytes += len(line)
        try:
            entry = json.loads(line)
            if "begin" in entry:
                journal.deaths.update(entry["begin"] if entry["session"] == session else ())
            else:
                journal.lines[int(entry["row"])] = line
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{file.name} is damaged; delete it to judge its rows again") from None
    # A row that got its line after all has killed nobody.
    for row in journal.lines:
        del journal.deaths[row]
    file.truncate(complete_bytes)
    file.seek(complete_bytes)
    return journal


def _entry(value: dict[str, object]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _append(file: BinaryIO, lines: Iterable[bytes]) -> None:
    append_durably(file, b"".join(lines))
