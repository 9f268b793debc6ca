"""The program `rewarddance`: its verbs, and the only place where errors become one line and an exit code.

Only typer and the standard library are imported here and at the top of every command's file: `--help` is answered
before torch could be loaded. What a command needs, it imports in its body.
"""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from rewarddance import __version__
from rewarddance.cli.align import align
from rewarddance.cli.compare import compare
from rewarddance.cli.config import config_app
from rewarddance.cli.demo import demo
from rewarddance.cli.evaluate import evaluate
from rewarddance.cli.import_data import import_data
from rewarddance.cli.lab import lab_app
from rewarddance.cli.overoptimization import overoptimization
from rewarddance.cli.parity import parity
from rewarddance.cli.rationales import rationales
from rewarddance.cli.references import references
from rewarddance.cli.report import report
from rewarddance.cli.score import score
from rewarddance.cli.search import search
from rewarddance.cli.serve import serve
from rewarddance.cli.streams import is_output_broken, output_error, prepare_streams
from rewarddance.cli.train import train
from rewarddance.core.errors import RewardDanceError, UsageError
from rewarddance.core.files import system_error_line

DONE, FAILED, BAD_USAGE = 0, 1, 2
NOT_READ = 141  # what a shell says of a program that SIGPIPE ended

app = typer.Typer(
    name="rewarddance",
    help="Vision-language reward models for image and video generators: learn, test and use them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command("import")(import_data)
app.command()(train)
app.command()(evaluate)
app.command()(score)
app.command()(compare)
app.command()(references)
app.command()(rationales)
app.command()(parity)
app.command()(align)
app.command()(search)
app.command()(overoptimization)
app.command()(serve)
app.command()(report)
app.add_typer(lab_app, name="lab")
app.add_typer(config_app, name="config")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after `rewarddance`; None for those of this process.

    Returns:
        0 done; 1 the run failed, or more items failed than allowed; 2 bad usage or config; 130 interrupted; 141 where
        nobody reads the output to its end.
    """
    prepare_streams()
    # Notices of this package go to stderr as they are; other libraries only warn.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("rewarddance").setLevel(logging.INFO)
    if not sys.stderr.isatty():
        # Read by transformers and huggingface_hub when they are imported: no bars in a file or a pipe.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    streams = sys.stdout, sys.stderr
    try:
        code = _run(arguments)
    except SystemExit as ended:
        # Typer's end wherever a pipe breaks, be it that of our output or one to a worker; it has wrapped the streams.
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        sys.stdout, sys.stderr = streams
        code = NOT_READ if is_output_broken() else _fail(str(ended.__context__.strerror), FAILED)
    return _ended(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result = app(args=None if arguments is None else list(arguments), standalone_mode=False)
    except typer.TyperException as error:
        return _fail(error.format_message().strip() or "no command; `rewarddance --help` lists them", error.exit_code)
    except UsageError as error:
        return _fail(str(error), BAD_USAGE)
    except RewardDanceError as error:
        return _fail(str(error), FAILED)
    except OSError as error:
        # A full disk, a file without permission: the user's to mend, and the name says where.
        return _fail(system_error_line(error), FAILED)
    except typer.Abort:
        return _fail("stopped", FAILED)
    return result if isinstance(result, int) else DONE


def _ended(code: int) -> int:
    """The exit code once everything that was printed is on its way; a failure stays what it is."""
    error = output_error()
    if error is None or code != DONE:
        return code
    return NOT_READ if isinstance(error, BrokenPipeError) else _fail(f"{error.strerror}: standard output", FAILED)


def _fail(message: str, code: int) -> int:
    with suppress(BrokenPipeError):
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _print_version(is_asked: bool) -> bool:
    if is_asked:
        print(f"rewarddance {__version__}")
        raise typer.Exit
    return is_asked


@app.callback()
def _options_of_the_program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass
