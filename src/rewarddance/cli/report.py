"""`rewarddance report`: one self-contained page of a run, or of several side by side."""

from pathlib import Path
from typing import Annotated

import typer

from rewarddance.cli.options import AsJson, place_option
from rewarddance.cli.output import print_json

REPORT_NAME = "report.html"


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", exists=True, file_okay=False, help="Folders of runs or evaluations."),
    ],
    out: Annotated[Path | None, place_option("The HTML file; report.html in the first folder if left out.")] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.", show_default=False)] = None,
    json: AsJson = False,
) -> None:
    """Write one self-contained HTML page of a run, or of several."""
    from rewarddance.core.output_files import output_file
    from rewarddance.reports.html_page import PAGE_BEGINS
    from rewarddance.reports.run_report import report_run

    page = report_run(runs, output_file(out or runs[0] / REPORT_NAME, PAGE_BEGINS), title)
    if json:
        print_json({"report": str(page)})
    else:
        print(page)
