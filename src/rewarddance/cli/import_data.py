"""`rewarddance import`: a public data set, as published, becomes a folder of comparisons."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rewarddance.cli.options import AsJson, finite, place_option
from rewarddance.cli.output import print_json
from rewarddance.cli.progress import progress

if TYPE_CHECKING:
    from rewarddance.data.import_report import ImportReport
    from rewarddance.data.splits import SplitReport

SPLIT_CHECK_NAME = "split_check.json"

_LEARNED_FROM = "train"


def import_data(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="hpdv3, hpdv2, imagerewarddb, pickapic or jsonl.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The data set's folder as downloaded, or one file.")],
    out: Annotated[Path, place_option("Folder that gets the comparisons and the reports.")],
    split: Annotated[
        str | None, typer.Option(help="Only this split; or the name of the split of a single file.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many records.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides which medium is shown first.")] = 0,
    max_bad_share: Annotated[
        float, typer.Option(callback=finite, min=0, max=1, help="Fail if a larger share of rows is bad.")
    ] = 0.05,
    media: Annotated[
        Literal["reference", "link", "copy"], typer.Option(help="Leave media where they are, or link or copy them.")
    ] = "reference",
    media_root: Annotated[
        Path | None, typer.Option(help="Where media paths start, if not in the data set's folder.", show_default=False)
    ] = None,
    verify: Annotated[
        Literal["header", "full"], typer.Option(help="Check the headers of media, or decode every pixel.")
    ] = "header",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace comparisons that --out holds.")] = False,
    json: AsJson = False,
) -> None:
    """Turn a public data set, as it is published, into comparisons."""
    from rewarddance.data.importing import import_source

    with progress("importing rows", limit) as show:
        report = import_source(
            source,
            path,
            out,
            seed=seed,
            split=split,
            max_bad_share=max_bad_share,
            limit=limit,
            media=media,
            media_root=media_root,
            verify=verify,
            overwrite=overwrite,
            on_progress=show,
        )
    checks = _check_splits(out)
    if json:
        print_json(report.to_json() | {"split_checks": {name: check.to_json() for name, check in checks.items()}})
    else:
        _print_report(report)


def _check_splits(out: Path) -> "dict[str, SplitReport]":
    """What each held-out split shares with what is learned from; written beside the comparisons."""
    from rewarddance.core.files import write_json_atomic
    from rewarddance.data.comparisons import ComparisonSet
    from rewarddance.data.splits import check_split

    whole = ComparisonSet.open(out)
    held_out = [name for name in whole.splits if name != _LEARNED_FROM]
    if _LEARNED_FROM not in whole.splits or not held_out:
        return {}
    learned_from = whole.select(split=_LEARNED_FROM)
    checks = {name: check_split(learned_from, whole.select(split=name)) for name in held_out}
    write_json_atomic(out / SPLIT_CHECK_NAME, {name: check.to_json() for name, check in checks.items()})
    for name, check in checks.items():
        if check.affected_test_records:
            typer.echo(
                f"warning: {check.affected_test_records} of {check.test_records} records of {name!r} share a prompt or "
                f"a medium with {_LEARNED_FROM!r}; see {out / SPLIT_CHECK_NAME}",
                err=True,
            )
    return checks


def _print_report(report: "ImportReport") -> None:
    print(f"{report.comparisons} comparisons from {report.rows} rows: {report.out}")
    for reason, count in sorted(report.skipped.items()):
        print(f"  {count} rows left out: {reason}")
    for reason, count in sorted(report.bad.items()):
        print(f"  {count} problems: {reason}")
    for line in report.warnings:
        typer.echo(f"warning: {line}", err=True)
