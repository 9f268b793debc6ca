"""`rewarddance references`: the best of a generator's own pictures for every prompt of a list."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewarddance.cli.model_names import generator_location, judge_location
from rewarddance.cli.options import (
    Adapter,
    AsJson,
    Device,
    Dtype,
    ExistingFile,
    GeneratorAdapter,
    Instruction,
    Kind,
    MaxFailedShare,
    Model,
    Revision,
    TrustRemoteCode,
    criteria,
    finite,
    place_option,
)
from rewarddance.cli.output import print_json
from rewarddance.cli.progress import hide_diffusers_bars, hide_transformers_bars, progress
from rewarddance.cli.search_service import ServiceOptions, is_zero_shot
from rewarddance.cli.service_options import (
    ApiKeyEnv,
    Concurrency,
    Deadline,
    Parity,
    ParityLimit,
    RequestFields,
    ServedModel,
    TokenIds,
    TopLogProbabilities,
    Tries,
    Url,
    ZeroShot,
)
from rewarddance.core.errors import UsageError
from rewarddance.core.files import sha256_of
from rewarddance.core.fingerprints import generator_fingerprint, model_fingerprint

if TYPE_CHECKING:
    from rewarddance.data.prompts import PromptItem
    from rewarddance.data.references import ReferenceSummary
    from rewarddance.search.references import Generate, Ranker, TournamentSettings


def references(
    generator: Annotated[
        str,
        typer.Argument(
            metavar="GENERATOR",
            help="Diffusion or flow generator: a folder in diffusers' layout, a hub id, or `lab:drawn`.",
            show_default=False,
        ),
    ],
    model: Model,
    prompts: ExistingFile,
    out: Annotated[Path, place_option("Folder of the references; continued if it exists.")],
    candidates: Annotated[int, typer.Option(min=2, max=16, help="Pictures that compete for each prompt.")] = 16,
    top: Annotated[int, typer.Option(min=1, help="Best pictures that are kept.")] = 2,
    bottom: Annotated[int, typer.Option(min=0, help="Worst pictures that are kept, for an ablation.")] = 0,
    seed: Annotated[int, typer.Option(help="Decides the noise that every picture begins with.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps; the generator's own if left out.", show_default=False)
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(callback=finite, help="Guidance; the generator's own if left out.", show_default=False),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(min=1, help="Pixels, with --width; the generator's own if left out.", show_default=False),
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels, with --height.", show_default=False)] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that are made together.")] = 8,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first prompts of the list.", show_default=False)
    ] = None,
    instruction: Instruction = None,
    max_failed_share: MaxFailedShare = 0.0,
    url: Url = None,
    served_model: ServedModel = None,
    zero_shot: ZeroShot = False,
    parity: Parity = None,
    parity_limit: ParityLimit = 0.02,
    top_logprobs: TopLogProbabilities = 20,
    token_ids: TokenIds = True,
    api_key_env: ApiKeyEnv = None,
    request_fields: RequestFields = None,
    concurrency: Concurrency = 8,
    tries: Tries = 5,
    deadline: Deadline = 120.0,
    adapter: Adapter = None,
    revision: Revision = None,
    generator_revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag when GENERATOR is a hub id.", show_default=False)
    ] = None,
    generator_adapter: GeneratorAdapter = None,
    kind: Kind = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    json: AsJson = False,
) -> None:
    """Make reference images: of each prompt's candidates, those that win most comparisons.

    PROMPTS is a text file with one prompt a line, or JSON lines or parquet with a field `prompt`.
    """
    from rewarddance.data.prompts import read_prompts
    from rewarddance.search.references import TournamentSettings

    if (height is None) != (width is None):
        raise UsageError("--height and --width go together; give both or neither")
    service = ServiceOptions(
        url,
        served_model,
        is_zero_shot(zero_shot, url, model),
        parity,
        parity_limit,
        top_logprobs,
        token_ids,
        api_key_env,
        request_fields,
        concurrency,
        tries,
        deadline,
    )
    service.check(model, adapter, revision)
    named = criteria(instruction)
    maker, judge = generator_location(generator), judge_location(model)
    fingerprint = model_fingerprint(judge, adapter, revision, kind)
    if isinstance(named, Path):
        fingerprint = f"{fingerprint} {sha256_of(named)}"  # a file of criteria counts by its content
    if service.record is not None:
        fingerprint = f"{fingerprint} {dumps(service.record)}"
    settings = TournamentSettings(
        generator=generator_fingerprint(maker, generator_revision, generator_adapter),
        judge=fingerprint,
        candidates=candidates,
        top=top,
        bottom=bottom,
        seed=seed,
        instruction=None if named is None else str(named),
        sampling={"denoising_steps": steps, "guidance": guidance, "height": height, "width": width, "dtype": dtype},
    )

    def load_generate() -> "Generate":
        from rewarddance.generators.loading import load_generator
        from rewarddance.generators.protocol import ImageSize
        from rewarddance.search.references import pictures_of

        hide_transformers_bars()
        hide_diffusers_bars()
        size = None if height is None or width is None else ImageSize(height, width)
        loaded = load_generator(maker, device, dtype, generator_revision, trust_remote_code, generator_adapter)
        return pictures_of(loaded, size, steps, guidance, batch_size)

    @contextmanager
    def judging() -> Iterator["Ranker"]:
        from rewarddance.rewards.loading import load_reward_model

        hide_transformers_bars()
        if service.url is not None:
            with service.connected(judge, kind) as served:
                yield served
            return
        yield load_reward_model(
            judge,
            device=device,
            dtype=dtype,
            adapter=adapter,
            revision=revision,
            kind=kind,
            trust_remote_code=trust_remote_code,
        )

    summary = _make(read_prompts(prompts)[:limit], out, settings, load_generate, judging)
    _print_summary(summary, out, as_json=json)
    lacking = {*summary.without_references, *summary.unanswered}
    raise typer.Exit(0 if len(lacking) <= max_failed_share * summary.prompts else 1)


def _make(
    prompts: "Sequence[PromptItem]",
    out: Path,
    settings: "TournamentSettings",
    load_generate: "Callable[[], Generate]",
    judging: "Callable[[], AbstractContextManager[Ranker]]",
) -> "ReferenceSummary":
    from rewarddance.data.reference_writing import ReferenceWriter, missing_prompts
    from rewarddance.search.references import make_references

    if not missing_prompts(out, asdict(settings), prompts):
        return ReferenceWriter(out, asdict(settings)).finish(prompts, resumed=len(prompts))
    # The judge first: a service that is not fit for it says so before the generator is loaded.
    with judging() as model:
        generate = load_generate()
        with progress("judging prompts", len({item.prompt for item in prompts})) as show:
            return make_references(generate, model, prompts, out, settings, on_progress=show)


def _print_summary(summary: "ReferenceSummary", out: Path, as_json: bool) -> None:
    if as_json:
        print_json(asdict(summary))
        return
    without = summary.without_references
    print(f"{summary.prompts} prompts, {len(without)} of them without references, {summary.failed_judgements} failed")
    for name, problem in without.items():
        print(f"  {name}: {problem}")
    for name, number in summary.unanswered.items():
        print(f"  {name}: {number} judgements had no answer; the same command asks again")
    print(out)
