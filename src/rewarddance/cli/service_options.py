"""Options of every command that asks a service, with one meaning each."""

from typing import Annotated

import typer

ApiKeyEnv = Annotated[
    str | None,
    typer.Option(help="Environment variable that holds the service's key; none if left out.", show_default=False),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Questions that the service gets at a time.")]
Tries = Annotated[int, typer.Option(min=1, help="Tries of each question, the first included.")]
Deadline = Annotated[float, typer.Option(min=0.001, help="Seconds for one try.")]
TopLogProbabilities = Annotated[
    int, typer.Option(min=1, help="Likely tokens that are asked for; services allow 20 unless told otherwise.")
]
