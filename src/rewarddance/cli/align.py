"""`rewarddance align`: tune a generator with a reward model, and watch for reward hacking."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewarddance.cli.align_inputs import load_inputs, located, require_first_references
from rewarddance.cli.options import AsJson, Overrides, Resume, RunDirectory, with_run_directory
from rewarddance.cli.output import plain, print_json, print_table
from rewarddance.cli.progress import hide_diffusers_bars, hide_transformers_bars
from rewarddance.cli.report import REPORT_NAME

if TYPE_CHECKING:
    from rewarddance.config.alignment import AlignConfig
    from rewarddance.config.alignment_rewards import AskedModel
    from rewarddance.training.alignment import AlignmentResult
    from rewarddance.training.memory_plan import MemoryPlan, StoredModel

_GIB = 2**30
_SIZES = ("weights", "learning", "copies", "activations", "kept")
_ENDINGS = {
    "complete": "all optimizer steps made",
    "stop": "the guard stopped the run",
    "roll_back": "the guard went back to the best checkpoint",
    "interrupted": "stopped",
}


def align(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `config show align` lists its keys.")],
    overrides: Overrides = None,
    out: RunDirectory = None,
    resume: Resume = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check what can be checked without a model, print the memory plan, load nothing large."
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Tune a generator with a reward model; a guard watches for reward hacking."""
    from rewarddance.config.alignment import AlignConfig
    from rewarddance.config.loader import load_config

    settings = load_config(AlignConfig, config, with_run_directory(overrides, out))
    if dry_run:
        _print_plan(settings, as_json=json)
        return
    from rewarddance.core.files import locked_folder

    # Not later: whoever is second in a folder need not wait for the libraries.
    with locked_folder(settings.out):
        from rewarddance.training.alignment import align as run_alignment

        hide_transformers_bars()
        hide_diffusers_bars()
        inputs = load_inputs(settings, resume)
    result = run_alignment(
        settings,
        generator=inputs.generator,
        reward=inputs.reward,
        judges=inputs.judges,
        references=inputs.references,
        evaluate=inputs.extra_curves,
        refresh_references=inputs.refresh_references,
        resume=resume,
        digests=inputs.digests,
    )
    from rewarddance.reports.run_report import report_run

    report = report_run([result.folder], result.folder / REPORT_NAME)
    if json:
        print_json(plain(asdict(result) | {"is_finished": result.is_finished, "report": report}))
    else:
        _print_result(result, report)


def _print_result(result: "AlignmentResult", report: Path) -> None:
    verdict = "" if result.verdict is None else f", guard's verdict: {result.verdict}"
    best = "" if result.best_step is None else f", best step by held-out judges: {result.best_step}"
    print(f"{_ENDINGS[result.ending]} after {result.optimizer_steps} optimizer steps{verdict}{best}")
    print(f"--resume continues {result.folder}" if result.generator_folder is None else result.generator_folder)
    print(report)


def _print_plan(settings: "AlignConfig", as_json: bool) -> None:
    from rewarddance.training.alignment_inputs import check_without_models
    from rewarddance.training.alignment_prompts import evaluation_prompts, training_prompts
    from rewarddance.training.memory_plan import StoredModel, plan_memory
    from rewarddance.training.run_folder import RunFolder

    RunFolder(settings.out).check_places(settings)
    require_first_references(settings)
    found = located(settings)
    training = training_prompts(found)
    evaluated = evaluation_prompts(found, training)
    check_without_models(found, (*training, *evaluated))
    plan = plan_memory(
        found,
        StoredModel(settings.generator.path, found.generator.path, found.generator.revision),
        _stored(settings.rewards, found.rewards),
        _stored(settings.judges, found.judges),
    )
    if as_json:
        parts = [asdict(part) | {"total": part.total} for part in plan.parts]
        counts = {"training_prompts": len(training), "evaluation_prompts": len(evaluated)}
        print_json(counts | {"parts": parts, "total": plan.total, "device_bytes": plan.device_bytes})
    else:
        print(f"{len(training)} training prompts, {len(evaluated)} evaluation prompts")
        _print_memory(plan)


def _stored(named: "Sequence[AskedModel]", found: "Sequence[AskedModel]") -> "list[StoredModel]":
    """What will be loaded of rewards or judges; a service holds the others."""
    from rewarddance.training.memory_plan import StoredModel

    return [
        StoredModel(_short(each.model), there.model, there.revision, there.dtype, there.kind, there.adapter)
        for each, there in zip(named, found, strict=True)
        if each.service is None
    ]


def _short(name: str) -> str:
    return Path(name).name if "/" in name else name


def _print_memory(plan: "MemoryPlan") -> None:
    columns = ("GiB", "parameters", "learning", "weights", "optimizer", "copies", "activations", "kept", "total")
    rows = [
        (
            part.name,
            _count(part.parameters),
            _count(part.trained),
            *(f"{getattr(part, name) / _GIB:.2f}" for name in _SIZES),
            f"{part.total / _GIB:.2f}",
        )
        for part in plan.parts
    ]
    sums = [sum(getattr(part, name) for part in plan.parts) for name in _SIZES]
    counts = [_count(sum(getattr(part, name) for part in plan.parts)) for name in ("parameters", "trained")]
    rows.append(("all", *counts, *(f"{size / _GIB:.2f}" for size in sums), f"{plan.total / _GIB:.2f}"))
    print_table(columns, rows)
    print(
        "optimizer: float32 weights that learn, their gradients and AdamW's state; activations are an estimate; "
        "kept: of reference images, at most"
    )
    if plan.device_bytes is None:
        print("there is no GPU here to compare with")
        return
    fits = plan.total <= plan.device_bytes
    print(f"the GPU has {plan.device_bytes / _GIB:.1f} GiB: {'it fits' if fits else 'it does not fit'}")
    for advice in () if fits else plan.advice:
        print(f"  {advice}")


def _count(number: int) -> str:
    """As models are named: 8.1B, 2.5M."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
