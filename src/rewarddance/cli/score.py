"""`rewarddance score`: how good is this medium, or every row of a manifest?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rewarddance.cli.model_names import judge_location
from rewarddance.cli.options import (
    Adapter,
    AsJson,
    Device,
    Dtype,
    Instructions,
    Kind,
    MaxFailedShare,
    MaxReasonTokens,
    Model,
    OptionalPrompt,
    Reasons,
    Revision,
    Samples,
    SourceMedia,
    Temperature,
    TrustRemoteCode,
    criteria,
    finite,
    place_option,
    reasoning_settings,
)
from rewarddance.cli.output import number_in_words, print_json
from rewarddance.cli.progress import hide_transformers_bars
from rewarddance.core.errors import UsageError
from rewarddance.core.fingerprints import model_fingerprint
from rewarddance.core.types import Judgement, JudgementRequest

if TYPE_CHECKING:
    from rewarddance.cli.manifest import Summary
    from rewarddance.rewards.protocol import RewardModel
    from rewarddance.rewards.reasoning_settings import ReasoningSettings


def score(
    model: Model,
    prompt: OptionalPrompt = None,
    candidate: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The medium to judge.", show_default=False)
    ] = None,
    reference_image: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, dir_okay=False, help="The medium it is judged against; repeatable.", show_default=False
        ),
    ] = None,
    references: Annotated[
        Literal["together", "one_by_one"] | None,
        typer.Option(
            help="Show several reference images in one question, or one by one and take the mean log-odds; the model's "
            "own way if left out.",
            show_default=False,
        ),
    ] = None,
    source_media: SourceMedia = None,
    manifest: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="JSON lines, one request each.", show_default=False),
    ] = None,
    out: Annotated[Path | None, place_option("Where the manifest's judgements go; continued if it exists.")] = None,
    instruction: Instructions = None,
    reasons: Reasons = None,
    samples: Samples = 1,
    temperature: Temperature = 0.0,
    max_reason_tokens: MaxReasonTokens = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a manifest that are judged and saved together.")] = 16,
    workers: Annotated[
        int, typer.Option(min=0, help="Judge a manifest in this many processes, each with its model; 0 is this one.")
    ] = 0,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Put the workers on Ray: `local`, `auto`, or the address of a cluster.",
            show_default=False,
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float,
        typer.Option(
            callback=finite, min=0.0, help="Share of a GPU for each worker on Ray; with 0, Ray hides GPUs from them."
        ),
    ] = 0.0,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows of a manifest that one worker gets at a time.")] = 1_000,
    max_deaths: Annotated[
        int, typer.Option(min=1, help="Workers that one row may kill before it is left out, with a line that says so.")
    ] = 3,
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
    `reference_image` (one or a list), `source_media`, `instruction` and `id` in every row; paths start at the
    manifest's folder. --workers and --ray are for manifests.
    """
    location = judge_location(model)

    def load() -> "RewardModel":
        from rewarddance.rewards.loading import load_reward_model

        hide_transformers_bars()
        return load_reward_model(
            location,
            device=device,
            dtype=dtype,
            adapter=adapter,
            revision=revision,
            kind=kind,
            trust_remote_code=trust_remote_code,
        )

    named = [criteria(one) for one in instruction or ()]
    reasoning = reasoning_settings(reasons, samples, temperature, max_reason_tokens)
    if reasoning is not None and (len(named) > 1 or workers or ray is not None):
        raise UsageError("--reasons is for one criterion at a time, in this process; leave the others out")
    if prompt is not None and candidate is not None and manifest is None and out is None:
        request = JudgementRequest(prompt, candidate, tuple(reference_image or ()) or None, source_media=source_media)
        judgements = _judged(load(), request, named, references, reasoning)
        _print_judgements(judgements, as_json=json)
        raise typer.Exit(0 if all(judgement.is_ok for judgement in judgements.values()) else 1)
    if manifest is not None and out is not None and prompt is None and candidate is None:
        if len(named) > 1:
            raise UsageError("a row of a manifest is judged once; name each of several criteria in a row of its own")
        from rewarddance.cli.manifest import judge_manifest
        from rewarddance.cli.manifest_job import JudgeLoader, Workers, judge_in_shards, visible_gpus
        from rewarddance.core.output_files import output_file
        from rewarddance.serving.manifest import Manifest

        out = output_file(out)
        fingerprint = model_fingerprint(location, adapter, revision, kind)
        judge_key = " ".join(str(one) for one in (fingerprint, references, reasoning) if one is not None)
        rows = Manifest.open(manifest, named[0] if named else None, judge=judge_key)
        if workers or ray is not None:
            loader = JudgeLoader(location, device, dtype, adapter, revision, kind, trust_remote_code, references)
            if ray is not None and device.startswith("cuda") and not gpus_per_worker:
                raise UsageError(f"--device {device}: Ray hides GPUs from workers without --gpus-per-worker; give both")
            gpus = visible_gpus(device) if ray is None else ()
            crew = Workers(max(1, workers), ray, gpus_per_worker, shard_rows, batch_size, max_deaths, gpus)
            summary = judge_in_shards(loader, rows, out, crew)
        else:
            summary = judge_manifest(
                lambda: partial(load().judge, reference_mode=references, reasoning=reasoning), rows, out, batch_size
            )
        _print_summary(summary, out, as_json=json)
        raise typer.Exit(0 if summary.failed <= max_failed_share * summary.rows else 1)
    raise UsageError("give --prompt and --candidate for one medium, or --manifest and --out for many")


def _judged(
    model: "RewardModel",
    request: JudgementRequest,
    named: Sequence[str | Path | None],
    references: Literal["together", "one_by_one"] | None,
    reasoning: "ReasoningSettings | None",
) -> dict[str, Judgement]:
    """Judgements by criteria; under the model's own without any."""
    from rewarddance.rewards.dimensions import judge_dimensions

    chosen = [one for one in named if one is not None]
    if len(chosen) > 1:
        return judge_dimensions(model, [request], chosen, references)[0]
    request = replace(request, instruction=chosen[0] if chosen else None)
    judgement = model.judge([request], reference_mode=references, reasoning=reasoning)[0]
    return {judgement.instruction or "": judgement}


def _print_summary(summary: "Summary", out: Path, as_json: bool) -> None:
    if as_json:
        print_json(asdict(summary))
    else:
        print(f"{summary.rows} rows judged, {summary.failed} of them without a score: {out}")


def _print_judgements(judgements: Mapping[str, Judgement], as_json: bool) -> None:
    """One judgement as it is; several by the names of their criteria."""
    is_single = len(judgements) == 1
    if as_json:
        shown = {name: asdict(judgement) for name, judgement in judgements.items()}
        print_json(next(iter(shown.values())) if is_single else shown)
        return
    for name, judgement in judgements.items():
        _print_judgement(judgement, "" if is_single else f"{name}: ")


def _print_judgement(judgement: Judgement, lead: str) -> None:
    if judgement.is_ok:
        gap = "" if judgement.order_gap is None else f"  order gap {judgement.order_gap:.3f}"
        reward = number_in_words(judgement.reward, "+.3f")
        print(f"{lead}score {number_in_words(judgement.score)}  reward {reward}{gap}")
        if judgement.rationale is not None and judgement.cost is not None:
            print(f"{lead}{judgement.rationale}  ({judgement.cost.generated_tokens} tokens written)")
        elif judgement.message is not None:
            typer.echo(f"{lead}{judgement.message}", err=True)
    else:
        typer.echo(f"error: {lead}{judgement.status.value}: {judgement.message}", err=True)
