"""`rewarddance compare`: which of these media is best for a prompt?"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewarddance.cli.model_names import judge_location
from rewarddance.cli.options import (
    Adapter,
    AsJson,
    Device,
    Dtype,
    Instruction,
    Kind,
    Model,
    Prompt,
    Revision,
    SourceMedia,
    TrustRemoteCode,
    criteria,
)
from rewarddance.cli.output import number_in_words, print_json, print_table
from rewarddance.cli.progress import hide_transformers_bars
from rewarddance.core.errors import UsageError

if TYPE_CHECKING:
    from rewarddance.core.types import Ranking


def compare(
    model: Model,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE IMAGE...", exists=True, dir_okay=False, help="Two or more media.")
    ],
    prompt: Prompt,
    source_media: SourceMedia = None,
    instruction: Instruction = None,
    adapter: Adapter = None,
    revision: Revision = None,
    kind: Kind = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    json: AsJson = False,
) -> None:
    """Rank media of one prompt by pairwise wins, best first."""
    if len(images) < 2:
        raise UsageError("one image cannot be compared; give two or more, or use `rewarddance score`")
    named = criteria(instruction)
    from rewarddance.rewards.loading import load_reward_model

    hide_transformers_bars()
    judge = load_reward_model(
        judge_location(model),
        device=device,
        dtype=dtype,
        adapter=adapter,
        revision=revision,
        kind=kind,
        trust_remote_code=trust_remote_code,
    )
    ranking = judge.rank(prompt, images, named, source_media)
    if json:
        print_json({"prompt": prompt, "images": [str(image) for image in images], **asdict(ranking)})
    else:
        _print_ranking(images, ranking)
    if any(wins is None for wins in ranking.wins):
        raise typer.Exit(1)


def _print_ranking(images: list[Path], ranking: "Ranking") -> None:
    places = {index: place for place, index in enumerate(ranking.order, start=1)}
    ordered = [*ranking.order, *(index for index in range(len(images)) if index not in places)]
    rows = [
        (
            "-" if ranking.wins[index] is None else str(places[index]),
            str(images[index]),
            number_in_words(ranking.wins[index], "g"),
            number_in_words(ranking.rewards[index], "+.2f"),
        )
        for index in ordered
    ]
    print_table(("place", "image", "wins", "mean reward"), rows)
    failures = {judgement.message for judgement in ranking.judgements if not judgement.is_ok and judgement.message}
    for message in sorted(failures):
        typer.echo(f"not judged: {message}", err=True)
