"""Arguments and options that several commands share, with one meaning each."""

from collections.abc import Sequence
from json import dumps as quoted
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rewarddance.core.errors import UsageError
from rewarddance.core.whole_text import is_whole_text

if TYPE_CHECKING:
    from rewarddance.rewards.reasoning_settings import ReasoningSettings


def place_option(what: str) -> Any:
    """An option that names where something is written: `what` says it in `--help`; an empty name is refused."""
    return typer.Option(help=what, metavar="<path>", parser=_place)


def _place(typed: str | Path) -> Path:
    # `Path("")` is the current folder, which nobody has named.
    if not str(typed):
        raise typer.BadParameter("it is empty; give a name, or `.` for the current folder")
    return Path(typed)


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Reward model, or instruct vision-language model to use zero-shot: a folder, a hub id, or `lab:SIZE`.",
        show_default=False,
    ),
]


def finite(number: float | None) -> float | None:
    """The callback of every option that takes a number with a fraction: `nan` and `inf` are floats for the parser.

    Raises:
        typer.BadParameter: The number is not finite.
    """
    if number is not None and not isfinite(number):
        raise typer.BadParameter(f"{number} is not a finite number")
    return number


def _whole(text: str | None) -> str | None:
    if text is not None and not is_whole_text(text):
        raise typer.BadParameter("it holds bytes that are not UTF-8; type it again as UTF-8")
    return text


Prompt = Annotated[str, typer.Option(callback=_whole, help="The text that asked for the media.", show_default=False)]
OptionalPrompt = Annotated[
    str | None, typer.Option("--prompt", callback=_whole, help="The text that asked for the media.", show_default=False)
]
Adapter = Annotated[
    str | None, typer.Option(help="LoRA adapter on top of MODEL: a local folder or a hub id.", show_default=False)
]
GeneratorAdapter = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="LoRA adapter on top of GENERATOR: `adapter/` of a run of align.",
        show_default=False,
    ),
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
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Precision of the weights; `auto` is bfloat16 on a GPU that has it, else float32."),
]
_CRITERIA = "Name of stored criteria, or a YAML file with your own; the model's own if left out."
Instruction = Annotated[str | None, typer.Option(metavar="NAME|FILE", help=_CRITERIA, show_default=False)]
Instructions = Annotated[
    list[str] | None,
    typer.Option(
        "--instruction", metavar="NAME|FILE", help=f"{_CRITERIA} Repeatable: one judgement each.", show_default=False
    ),
]
SourceMedia = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="What an edit or an image-to-video prompt starts from.", show_default=False
    ),
]
Reasons = Annotated[
    Literal["answer_first", "reason_first"] | None,
    typer.Option(
        help="Ask for reasons as well: behind the answer, which they do not change, or before it.", show_default=False
    ),
]
Samples = Annotated[
    int, typer.Option(min=1, help="Rationales of each question, whose probabilities are averaged (reason_first).")
]
Temperature = Annotated[
    float, typer.Option(callback=finite, min=0, help="Of the rationales; 0 writes the most probable one.")
]
MaxReasonTokens = Annotated[
    int, typer.Option(min=1, help="Longest rationale; a longer one is a failure with a name, and no score.")
]
RunDirectory = Annotated[Path | None, place_option("Run directory; short for --set out=DIR.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in the run directory from its newest whole checkpoint.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key of the config; repeatable.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
MaxFailedShare = Annotated[
    float,
    typer.Option(callback=finite, min=0, max=1, help="Exit with 1 if a larger share of the items could not be judged."),
]
ExistingFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]


def reasoning_settings(
    reasons: Literal["answer_first", "reason_first"] | None, samples: int, temperature: float, max_tokens: int
) -> "ReasoningSettings | None":
    """What `--reasons` and the options beside it ask for; None without it.

    Raises:
        UsageError: They do not fit together.
    """
    if reasons is None:
        if samples != 1 or temperature != 0:
            raise UsageError("--samples and --temperature are for rationales; give --reasons reason_first as well")
        return None
    from rewarddance.rewards.reasoning_settings import ReasoningSettings

    return ReasoningSettings(reasons, samples, temperature, max_tokens)


def criteria(typed: str | None) -> str | Path | None:
    """What `--instruction` names; an unknown name or a file without criteria stops a command before a model loads.

    Raises:
        UsageError: There are no such criteria.
    """
    if typed is None:
        return None
    from rewarddance.rewards.instructions import instruction_argument, load_instruction

    load_instruction(typed)
    return instruction_argument(typed)


def with_run_directory(overrides: Sequence[str] | None, out: Path | None) -> list[str]:
    """The overrides of a config, `--out` being one of them.

    It is quoted, because the values of overrides are YAML, and `2026` or `null` are good names of folders.
    """
    return [*(overrides or ()), *([] if out is None else [f"out={quoted(str(out))}"])]
