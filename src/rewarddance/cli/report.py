"""`rewarddance report`: one self-contained page of a run, or of several side by side."""

from pathlib import Path
from typing import Annotated

import typer

from rewarddance.cli.options import AsJson
from rewarddance.cli.output import print_json

REPORT_NAME = "report.html"


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", exists=True, file_okay=False, help="Folders of runs or evaluations."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file; report.html in the first folder if left out.", show_default=False),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.", show_default=False)] = None,
    json: AsJson = False,
) -> None:
    """Write one self-contained HTML page of a run, or of several."""
    from rewarddance.reports.run_report import report_run

    page = report_run(runs, out or runs[0] / REPORT_NAME, title)
    if json:
        print_json({"report": str(page)})
    else:
        print(page)
