"""`rewarddance score`: how good is this medium, or every row of a manifest?"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewarddance.cli.manifest import Manifest, Summary, judge_manifest
from rewarddance.cli.model_names import model_fingerprint, model_location
from rewarddance.cli.options import (
    Adapter,
    AsJson,
    Device,
    Dtype,
    Instruction,
    Kind,
    MaxFailedShare,
    Model,
    Revision,
    TrustRemoteCode,
)
from rewarddance.cli.output import number_in_words, print_json
from rewarddance.cli.progress import hide_transformers_bars
from rewarddance.core.errors import UsageError
from rewarddance.core.types import Judgement, JudgementRequest

if TYPE_CHECKING:
    from rewarddance.rewards.protocol import RewardModel


def score(
    model: Model,
    prompt: Annotated[str | None, typer.Option(help="The text that asked for the media.", show_default=False)] = None,
    candidate: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The medium to judge.", show_default=False)
    ] = None,
    reference_image: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The medium it is judged against.", show_default=False),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="JSON lines, one request each.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the manifest's judgements go; continued if it exists.", show_default=False),
    ] = None,
    instruction: Instruction = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a manifest that are judged and saved together.")] = 16,
    max_failed_share: MaxFailedShare = 0.0,
    adapter: Adapter = None,
    revision: Revision = None,
    kind: Kind = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    json: AsJson = False,
) -> None:
    """Judge one medium, or every row of a manifest.

    One medium: --prompt, --candidate and, for a pairwise model, --reference-image.
    A manifest: --manifest rows.jsonl --out judgements.jsonl, with `prompt`, `candidate` and, where wanted,
    `reference_image`, `instruction` and `id` in every row; paths start at the manifest's folder.
    """

    def load() -> "RewardModel":
        from rewarddance.rewards.loading import load_reward_model

        hide_transformers_bars()
        return load_reward_model(
            model_location(model),
            device=device,
            dtype=dtype,
            adapter=adapter,
            revision=revision,
            kind=kind,
            trust_remote_code=trust_remote_code,
        )

    if instruction is not None:
        from rewarddance.rewards.instructions import stored_instruction

        stored_instruction(instruction)  # an unknown name stops the command before a model is loaded
    if prompt is not None and candidate is not None and manifest is None and out is None:
        request = JudgementRequest(prompt, candidate, reference_image, instruction)
        judgement = load().judge([request])[0]
        _print_judgement(judgement, as_json=json)
        raise typer.Exit(0 if judgement.is_ok else 1)
    if manifest is not None and out is not None and prompt is None and candidate is None:
        fingerprint = model_fingerprint(model_location(model), adapter, revision, kind)
        rows = Manifest.open(manifest, instruction, judge=fingerprint)
        summary = judge_manifest(lambda: load().judge, rows, out, batch_size)
        _print_summary(summary, out, as_json=json)
        raise typer.Exit(0 if summary.failed <= max_failed_share * summary.rows else 1)
    raise UsageError("give --prompt and --candidate for one medium, or --manifest and --out for many")


def _print_summary(summary: Summary, out: Path, as_json: bool) -> None:
    if as_json:
        print_json(asdict(summary))
    else:
        print(f"{summary.rows} rows judged, {summary.failed} of them without a score: {out}")


def _print_judgement(judgement: Judgement, as_json: bool) -> None:
    if as_json:
        print_json(asdict(judgement))
    elif judgement.is_ok:
        gap = "" if judgement.order_gap is None else f"  order gap {judgement.order_gap:.3f}"
        print(f"score {number_in_words(judgement.score)}  reward {number_in_words(judgement.reward, '+.3f')}{gap}")
    else:
        typer.echo(f"error: {judgement.status.value}: {judgement.message}", err=True)
