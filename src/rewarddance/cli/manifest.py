"""Judging a manifest in this process: one line out for every row, continued where an earlier run stopped.

The output is written in the order of the rows and reaches the disk after every batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rewarddance.cli.progress import progress
from rewarddance.core.errors import UsageError
from rewarddance.core.files import append_durably, lock_file
from rewarddance.serving.manifest import Judge, Manifest, is_failure, judge_rows, written_key


@dataclass(frozen=True, slots=True)
class Summary:
    """How a manifest went.

    Attributes:
        rows: Rows of the manifest; each has one line of output.
        failed: Rows without a score, those of earlier runs included.
        resumed: Rows that an earlier run had judged.
    """

    rows: int
    failed: int
    resumed: int


def judge_manifest(load_judge: Callable[[], Judge], manifest: Manifest, out: Path, batch_size: int) -> Summary:
    """Judge every row that has no line in the output yet.

    Args:
        load_judge: Gives what answers a batch of requests, in order; not called when every row is judged.
        manifest: The rows.
        out: Output file; created, or continued.
        batch_size: Rows that are judged and saved together; an interruption loses at most these.

    Raises:
        UsageError: The output belongs to another manifest or another model, or another process writes it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    total = len(manifest)
    with out.open("a+b") as file:
        lock_file(file, out)
        resumed, failed = continued(file, manifest, out)
        if resumed < total:
            judge = load_judge()
            with progress("judging rows", total) as show:
                for start in range(resumed, total, batch_size):
                    show(start)
                    indices = range(start, min(start + batch_size, total))
                    judgements = judge_rows(judge, manifest, indices)
                    lines = (manifest.output_line(*judged) for judged in zip(indices, judgements, strict=True))
                    append_durably(file, b"".join(lines))
                    failed += sum(not judgement.is_ok for judgement in judgements)
                show(total)
    return Summary(rows=total, failed=failed, resumed=resumed)


def continued(file: BinaryIO, manifest: Manifest, out: Path) -> tuple[int, int]:
    """Rows already judged and how many of them failed; cuts off a line that a kill left half written.

    Args:
        file: The output, open for reading and appending; left at its end.
        manifest: What it should be the output of.
        out: Its name.

    Raises:
        UsageError: The output belongs to another manifest or another model.
    """
    file.seek(0)
    complete_bytes, resumed, failed = 0, 0, 0
    for line in file:
        is_whole = line.endswith(b"\n")
        is_ours = resumed < len(manifest) and (
            written_key(line) == manifest.key(resumed) if is_whole else manifest.is_begun_line(resumed, line)
        )
        if not is_ours:
            raise UsageError(
                f"{out} has judgements of another manifest, model or instruction (line {resumed + 1}); "
                "delete it or choose another --out"
            )
        if not is_whole:
            break
        failed += is_failure(line)
        resumed += 1
        complete_bytes += len(line)
    file.truncate(complete_bytes)
    file.seek(complete_bytes)
    return resumed, failed
