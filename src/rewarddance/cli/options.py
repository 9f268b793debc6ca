"""Arguments and options that several commands share, with one meaning each."""

from collections.abc import Sequence
from json import dumps as quoted
from pathlib import Path
from typing import Annotated, Literal

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Reward model, or instruct vision-language model to use zero-shot: a folder, a hub id, or `lab:SIZE`.",
        show_default=False,
    ),
]
Adapter = Annotated[
    str | None, typer.Option(help="LoRA adapter on top of MODEL: a local folder or a hub id.", show_default=False)
]
Revision = Annotated[str | None, typer.Option(help="Commit, branch or tag when MODEL is a hub id.", show_default=False)]
Kind = Annotated[
    Literal["pairwise", "pointwise", "scalar"] | None,
    typer.Option(
        help="How an untrained MODEL is asked (pairwise if left out); what a trained one must be.", show_default=False
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Take a model folder that holds pickles or code.")
]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, `cuda:1`, ...")]
Dtype = Annotated[str, typer.Option(help="`auto`, `float32` or `bfloat16`.")]
Instruction = Annotated[
    str | None, typer.Option(help="Name of stored criteria; the model's own if left out.", show_default=False)
]
RunDirectory = Annotated[Path | None, typer.Option(help="Run directory; short for --set out=DIR.", show_default=False)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in the run directory from its newest whole checkpoint.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key of the config; repeatable.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
MaxFailedShare = Annotated[
    float, typer.Option(min=0, max=1, help="Exit with 1 if a larger share of the items could not be judged.")
]
ExistingFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]


def with_run_directory(overrides: Sequence[str] | None, out: Path | None) -> list[str]:
    """The overrides of a config, `--out` being one of them.

    It is quoted, because the values of overrides are YAML, and `2026` or `null` are good names of folders.
    """
    return [*(overrides or ()), *([] if out is None else [f"out={quoted(str(out))}"])]
