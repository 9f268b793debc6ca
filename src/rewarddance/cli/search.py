"""`rewarddance search`: spend compute on each prompt, and keep the picture that a reward model likes best."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    finite,
    place_option,
)
from rewarddance.cli.output import print_json
from rewarddance.cli.progress import progress
from rewarddance.cli.search_service import ServiceOptions, is_zero_shot
from rewarddance.cli.search_settings import (
    AlgorithmOptions,
    Loading,
    algorithm_of,
    settings_record,
    size_of,
)
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

if TYPE_CHECKING:
    from rewarddance.metrics.bootstrap import Interval
    from rewarddance.search.budget import Budget
    from rewarddance.search.output import SearchSummary


def search(
    algorithm: Annotated[
        Literal["best-of-n", "paths", "particles"],
        typer.Argument(metavar="best-of-n|paths|particles", help="How to search.", show_default=False),
    ],
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
    out: Annotated[Path, place_option("Folder of the search; continued if it exists.")],
    candidates: Annotated[
        int | None, typer.Option(min=1, help="best-of-n: pictures of each prompt (16).", show_default=False)
    ] = None,
    paths: Annotated[
        int | None, typer.Option(min=1, help="paths: how many go on at every level.", show_default=False)
    ] = None,
    branches: Annotated[
        int | None, typer.Option(min=1, help="paths: of each path at every level.", show_default=False)
    ] = None,
    starts: Annotated[
        int | None, typer.Option(min=1, help="paths: before the first level.", show_default=False)
    ] = None,
    renoise: Annotated[
        float | None,
        typer.Option(callback=finite, help="paths: how far up a branch goes, in noise level.", show_default=False),
    ] = None,
    particles: Annotated[int | None, typer.Option(min=2, help="particles: how many (16).", show_default=False)] = None,
    strength: Annotated[
        float | None,
        typer.Option(callback=finite, help="particles: what one unit of log-odds is worth.", show_default=False),
    ] = None,
    potential: Annotated[
        Literal["difference", "max", "sum"] | None,
        typer.Option(help="particles: how rewards on the way count.", show_default=False),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            metavar="SIGMA,...", help="paths, particles: noise levels to judge at, falling.", show_default=False
        ),
    ] = None,
    verify: Annotated[
        Literal["score", "round-robin", "knock-out"] | None,
        typer.Option(
            help="Score each picture, or hold a tournament; a pairwise MODEL without references holds one.",
            show_default=False,
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(help="Folder of `rewarddance references` to score against.", show_default=False),
    ] = None,
    reference_count: Annotated[int, typer.Option(min=1, help="Best reference images of each prompt.")] = 1,
    judge: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Held-out reward model that watches for hacking.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides all noise.")] = 0,
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
    keep: Annotated[Literal["all", "winners"], typer.Option(help="Whose pictures are written.")] = "all",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="State the budget, and stop.")] = False,
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
    """Search for the best picture of every prompt: best of N, search over paths, or particles.

    PROMPTS is a text file with one prompt a line, or JSON lines or parquet with a field `prompt`.
    """
    from rewarddance.data.prompts import read_prompts
    from rewarddance.search.bench import Drawing
    from rewarddance.search.output import SearchWriter, missing_prompts
    from rewarddance.search.running import run_searches

    options = AlgorithmOptions(
        candidates, paths, branches, starts, renoise, particles, strength, potential, levels, seed
    )
    settings = algorithm_of(algorithm, options)
    drawing = Drawing(steps, guidance, size_of(height, width), batch_size)
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
    loading = Loading(
        generator=generator_location(generator),
        model=judge_location(model),
        judge=None if judge is None else judge_location(judge),
        verify=verify,
        instruction=instruction,
        references=references,
        reference_count=reference_count,
        service=service,
        adapter=adapter,
        revision=revision,
        generator_revision=generator_revision,
        generator_adapter=generator_adapter,
        kind=kind,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    asked = read_prompts(prompts)[:limit]
    record = settings_record(algorithm, settings, drawing, loading)
    missing = missing_prompts(out, record, asked)
    if missing or dry_run:
        with loading.loaded(settings, drawing, [item.prompt for item in asked]) as job:
            if dry_run:
                _print_budget(job.budget(), job.watch_budget(), len(missing), as_json=json)
                raise typer.Exit(0)
            _state(job.budget(), job.watch_budget(), len(missing))
            with progress("searching", len({item.prompt for item in asked})) as show:
                summary = run_searches(job, asked, SearchWriter(out, record, keep), show)
    else:
        summary = SearchWriter(out, record, keep).finish(asked, resumed=len({item.prompt for item in asked}))
    _print_summary(summary, out, as_json=json)
    lacking = {*summary.without_winner, *summary.unanswered, *summary.unread}
    raise typer.Exit(0 if len(lacking) <= max_failed_share * summary.prompts else 1)


def _in_words(budget: "Budget") -> str:
    return f"{budget.velocities:,} velocities, {budget.decodes:,} decodes, {budget.judgements:,} judgements"


def _state(each: "Budget", watching: "Budget", prompts: int) -> None:
    line = f"{prompts} prompts: {_in_words(each.times(prompts))}"
    if watching.total:
        line += f"; watching them, at most {_in_words(watching.times(prompts))}"
    typer.echo(line, err=True)


def _print_budget(each: "Budget", watching: "Budget", prompts: int, as_json: bool) -> None:
    if as_json:
        names = {"each": each, "all": each.times(prompts), "watching_at_most": watching.times(prompts)}
        print_json({"prompts": prompts, **{name: asdict(budget) for name, budget in names.items()}})
        return
    print(f"each prompt: {_in_words(each)}")
    print(f"{prompts} prompts: {_in_words(each.times(prompts))}")
    if watching.total:
        print(f"watching them, at most: {_in_words(watching.times(prompts))}")


def _print_summary(summary: "SearchSummary", out: Path, as_json: bool) -> None:
    if as_json:
        print_json(asdict(summary))
        return
    print(
        f"{summary.prompts} prompts, {len(summary.without_winner)} of them without a winner, "
        f"{summary.failed_judgements} pictures could not be judged"
    )
    for name, problem in summary.without_winner.items():
        print(f"  {name}: {problem}")
    for name, number in summary.unanswered.items():
        print(f"  {name}: {number} judgements had no answer; the same command asks again")
    if summary.unread:
        print(
            f"{sum(summary.unread.values())} pictures of {len(summary.unread)} prompts have no score, because the "
            "service did not list its answer: it is surest of those, and the best may be among them; let it list more "
            "(--top-logprobs), or hold a tournament in which pictures are closer to each other (--verify knock-out)"
        )
    print(f"stated: {_in_words(summary.stated)}")
    print(f"spent:  {_in_words(summary.spent)}")
    if summary.watch is not None:
        seen = summary.watch
        print(
            f"held-out judge: {seen.finding}; the winner beats a plain picture by {_interval(seen.judge_gain)} "
            f"log-odds, in the verifier's eyes by {_interval(seen.verifier_gain)}"
        )
    print(out)


def _interval(found: "Interval | None") -> str:
    if found is None:
        return "an unknown number of"
    if found.low is None or found.high is None:
        return f"{found.estimate:+.2f}"
    return f"{found.estimate:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
