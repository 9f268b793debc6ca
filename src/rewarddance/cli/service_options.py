"""Options of every command that asks a service, with one meaning each."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rewarddance.cli.options import finite
from rewarddance.core.errors import UsageError

PANEL = "Service"
"""Heading under which `--help` lists these options."""

Url = Annotated[
    str | None,
    typer.Option(
        help="Ask MODEL behind this OpenAI-compatible service, up to `/v1`; MODEL is the folder of what it serves, "
        "or its `rewarddance.json` alone.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
ServedModel = Annotated[
    str | None,
    typer.Option(help="The service's name for MODEL.", show_default=False, rich_help_panel=PANEL),
]
ZeroShot = Annotated[
    bool,
    typer.Option(
        "--zero-shot",
        help="MODEL was never trained as a reward model: ask it as --kind says. `lab:SIZE` always is.",
        rich_help_panel=PANEL,
    ),
]
Parity = Annotated[
    Path | None,
    typer.Option(
        help="File of `rewarddance parity --out`: nothing is begun with a service that scores otherwise.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
ParityLimit = Annotated[
    float,
    typer.Option(
        callback=finite,
        min=0,
        max=1,
        help="Largest difference of scores from those in that file.",
        rich_help_panel=PANEL,
    ),
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(
        help="Environment variable that holds the service's key; none if left out.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
Concurrency = Annotated[
    int, typer.Option(min=1, help="Questions that the service gets at a time.", rich_help_panel=PANEL)
]
Tries = Annotated[int, typer.Option(min=1, help="Tries of each question, the first included.", rich_help_panel=PANEL)]
Deadline = Annotated[
    float, typer.Option(callback=finite, min=0.001, help="Seconds for one try.", rich_help_panel=PANEL)
]
TopLogProbabilities = Annotated[
    int,
    typer.Option(
        min=1,
        help="Likely tokens that are asked for; services allow 20 unless told otherwise.",
        rich_help_panel=PANEL,
    ),
]
TokenIds = Annotated[
    bool, typer.Option(help="Name the answers' tokens to the service; vendors may refuse that.", rich_help_panel=PANEL)
]
RequestFields = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help="Fields of every request that are added or replaced, or left out where they are null.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]


def parsed_fields(typed: str | None, option: str) -> dict[str, Any]:
    """The fields that an option holds as JSON; none without it.

    Raises:
        UsageError: It is no JSON object.
    """
    try:
        fields = {} if typed is None else json.loads(typed, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise UsageError(f"""{option} {typed!r} is no JSON object; give one like '{{"max_tokens": null}}'""")
    return fields


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
