"""`rewarddance lab`: draw its world, build its base models, run its studies."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from rewarddance.cli.options import place_option
from rewarddance.cli.output import print_json
from rewarddance.cli.progress import hide_transformers_bars, progress

_Size = Literal["nano", "micro", "small"]
_Name = TypeVar("_Name", bound=str)

_SIZES: dict[str, tuple[_Size, ...]] = dict.fromkeys(("context", "reasoning"), ("nano", "micro", "small"))
_PARTS: dict[str, tuple[str, ...]] = {
    "alignment": ("guarded", "references", "refl", "refl_augmented", "flow_grpo"),
    "context": ("instructions", "references"),
    "guard": ("thresholds", "refl", "flow_grpo"),
}

lab_app = typer.Typer(help="Draw the lab's world, build its base models, run its studies.", no_args_is_help=True)


@lab_app.command("draw")
def draw(
    out: Annotated[Path, place_option("Folder that gets the comparisons.")],
    train: Annotated[int, typer.Option(min=1, help="Comparisons to learn from.")] = 4000,
    validation: Annotated[int, typer.Option(min=1, help="Comparisons to choose the best checkpoint by.")] = 400,
    test: Annotated[int, typer.Option(min=1, help="Comparisons of each of the two test splits.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Decides pictures and choices.")] = 0,
) -> None:
    """Draw comparisons: splits train, validation, test_in (in domain) and test_out (out of domain)."""
    from rewarddance.lab.comparisons import Split, draw_comparisons

    counts: dict[Split, int] = {"train": train, "validation": validation, "test_in": test, "test_out": test}
    with progress("drawing comparisons", sum(counts.values())) as show:
        draw_comparisons(out, counts, seed, on_drawn=show)
    print(out)


@lab_app.command("photos")
def photos(
    out: Annotated[Path, place_option("Folder that gets train.json, test.json and images/.")],
    train: Annotated[int, typer.Option(min=1, help="Rows from the training photos.")] = 1500,
    test: Annotated[int, typer.Option(min=1, help="Rows from photos that are held out whole.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Decides crops and faults.")] = 0,
) -> None:
    """Write scikit-image's photographs with graded faults as a published HPDv3 folder."""
    from rewarddance.lab.photos import write_photo_folder

    with progress("spoiling photos", train + test) as show:
        write_photo_folder(out, train, test, seed, show)
    print(out)


@lab_app.command("pretrain")
def pretrain(
    name: Annotated[
        Literal["nano", "micro", "small", "drawn"],
        typer.Argument(metavar="NAME", help="nano, micro or small; drawn, the generator."),
    ],
    out: Annotated[Path, place_option("Folder for log, checkpoint and model; continued if it exists.")],
    items: Annotated[
        int | None,
        typer.Option(min=64, help="Items or pictures to see; the recorded recipe if left out.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Decides weights and data; the recorded one if left out.", show_default=False),
    ] = None,
    describing: Annotated[
        bool, typer.Option("--describing", help="Continue the base that ships: it learns to describe two pictures.")
    ] = False,
    describing_alone: Annotated[
        bool,
        typer.Option("--describing-alone", help="Make a base that describes pictures and has never compared two."),
    ] = False,
) -> None:
    """Make a base model (about an hour on one core) or the generator (minutes) by the recorded recipe; resumable."""
    from dataclasses import replace

    from rewarddance.core.errors import UsageError

    if describing and describing_alone:
        raise UsageError("--describing and --describing-alone make different bases; choose one")
    if name == "drawn":
        if describing or describing_alone:
            raise UsageError("the generator describes nothing; --describing is for nano, micro and small")
        _pretrain_generator(out, items, seed or 0)
        return
    if describing or describing_alone:
        _teach_describing(name, out, items, seed, alone=describing_alone)
        return
    from rewarddance.lab.pretraining import pretrain as run
    from rewarddance.lab.pretraining import recipe

    recorded = recipe(name, seed or 0)
    settings = recorded if items is None else replace(recorded, items=items)
    with progress(f"pretraining {name}", settings.items) as show:
        print(run(settings, out, show))


def _teach_describing(size: _Size, out: Path, items: int | None, seed: int | None, *, alone: bool) -> None:
    from dataclasses import replace

    from rewarddance.lab.describer import DescriberSettings, make_describer
    from rewarddance.lab.describing import DescribingSettings, learn_to_describe

    recorded = DescriberSettings(size) if alone else DescribingSettings(size)
    settings = replace(recorded, items=items or recorded.items, seed=recorded.seed if seed is None else seed)
    with progress(f"lessons in describing for {size}", settings.items) as show:
        if isinstance(settings, DescriberSettings):
            print(make_describer(settings, out, show))
        else:
            print(learn_to_describe(settings, out, show))


@lab_app.command("figures")
def figures(
    results: Annotated[Path, place_option("Folder of the studies' NAME.json.")] = Path("docs/results"),
    out: Annotated[Path, place_option("Folder that gets the figures, SVG.")] = Path("docs/images"),
) -> None:
    """Draw the figures of docs/experiments.md from what the studies have recorded; nothing is run."""
    from rewarddance.lab.figures import write_figures

    for file in write_figures(results, out):
        print(file)


@lab_app.command("study")
def study(
    name: Annotated[
        Literal[
            "paradigms",
            "learning_curve",
            "alignment",
            "guard",
            "search",
            "overoptimization",
            "context",
            "reasoning",
            "describing",
            "describing_alone",
        ],
        typer.Argument(
            metavar="NAME",
            help="paradigms, learning_curve, alignment, guard, search, overoptimization, context, reasoning, "
            "describing or describing_alone.",
        ),
    ],
    out: Annotated[
        Path,
        place_option("Folder for the runs; finished ones are kept, and later studies use them."),
    ] = Path("runs/study"),
    results: Annotated[Path, place_option("Folder for NAME.json.")] = Path("docs/results"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, each with data of its own.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    size: Annotated[
        list[str] | None,
        typer.Option(help="Only models of this size (repeatable): nano, micro, small; for context and reasoning."),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this part (repeatable): of alignment refl, refl_augmented, flow_grpo, guarded, references; of "
            "context instructions, references; of guard thresholds, refl, flow_grpo. What NAME.json holds of the "
            "rest stays."
        ),
    ] = None,
) -> None:
    """Run a study of the lab: every run of it that is not finished, then its table."""
    sizes = _chosen(name, "size", size, _SIZES.get(name, ()))
    wanted = _chosen(name, "part", part, _PARTS.get(name, ()))
    hide_transformers_bars()
    results.mkdir(parents=True, exist_ok=True)  # before the hours of work whose results go there
    match name:
        case "alignment":
            _alignment_study(out, results, seeds, jobs, wanted)
        case "guard":
            _guard_study(out, results, seeds, jobs, wanted)
        case "search":
            _search_study(out, results, seeds, jobs)
        case "overoptimization":
            _overoptimization_study(out, results, seeds, jobs)
        case "context":
            _context_study(out, results, seeds, jobs, sizes, wanted)
        case "reasoning":
            _reasoning_study(out, results, seeds, jobs, sizes)
        case "describing" | "describing_alone":
            _describing_study(name, out, results, seeds, jobs)
        case "paradigms" | "learning_curve":
            _reward_study(name, out, results, seeds, jobs)


def _reward_study(
    name: Literal["paradigms", "learning_curve"], out: Path, results: Path, seeds: int, jobs: int
) -> None:
    from rewarddance.lab.reward_study import STUDIES, StudySettings, markdown_table, run_study, runs_of, write_results

    settings = StudySettings(folder=out, seeds=tuple(range(seeds)), jobs=jobs)
    with progress(f"study {name}", len(runs_of(STUDIES[name], settings))) as show:
        rows = run_study(STUDIES[name], settings, show)
    write_results(results / f"{name}.json", name, settings, rows)
    print(markdown_table(rows))


def _chosen(study: str, option: str, given: list[str] | None, known: tuple[_Name, ...]) -> tuple[_Name, ...]:
    """What was asked for of what a study has; everything where nothing was."""
    if odd := [one for one in given or () if one not in known]:
        from rewarddance.core.errors import UsageError

        advice = f"give {', '.join(known)}" if known else f"leave --{option} out"
        raise UsageError(f"the study {study} has no {option} {odd[0]}; {advice}")
    return tuple(one for one in known if one in given) if given else known


def _alignment_study(out: Path, results: Path, seeds: int, jobs: int, parts: tuple[str, ...]) -> None:
    from rewarddance.lab.alignment_study import (
        WAYS,
        AlignmentStudy,
        alignment_cells,
        guarded_summary,
        run_alignments,
        run_guarded,
        write_alignment_results,
    )
    from rewarddance.lab.reference_alignment import (
        ReferenceAlignment,
        reference_alignment_summary,
        run_reference_alignments,
    )

    cells = alignment_cells(range(seeds), ways=tuple(way for way in WAYS if way in parts))
    asked = AlignmentStudy(out / "alignment", out, cells, judge_seeds=tuple(range(max(2, seeds))), jobs=jobs)
    guarded = []
    if "guarded" in parts:
        with progress("the largest reward model, with the guard", seeds) as show:
            guarded = run_guarded(asked, range(seeds), show)
        print_json(guarded_summary(guarded))
    chosen = []
    if "references" in parts:
        tuned = ReferenceAlignment(out / "alignment", out, tuple(range(seeds)), jobs=jobs)
        with progress("the largest reward model, against better and worse reference images", len(tuned.runs)) as show:
            chosen = run_reference_alignments(tuned, show)
        print_json(reference_alignment_summary(chosen))
    with progress("study alignment", len(cells)) as show:
        folders = run_alignments(asked, show)
    print(write_alignment_results(results / "alignment.json", guarded, folders, range(seeds), out, chosen))


def _guard_study(out: Path, results: Path, seeds: int, jobs: int, parts: tuple[str, ...]) -> None:
    from rewarddance.core.errors import UsageError
    from rewarddance.lab.alignment import METHODS
    from rewarddance.lab.guard_study import (
        calibration_runs,
        finished_runs,
        first_free_seed,
        looks_of,
        read_recorded,
        thresholds_of,
        write_guard_results,
    )
    from rewarddance.lab.guard_thresholds import fix_thresholds

    finished = {method: finished_runs(out, method) for method in METHODS}
    scored = [folder for method, folders in finished.items() if method in parts for folder in folders]
    if not scored and parts != ("thresholds",):
        raise UsageError(f"{out} holds no alignment runs; make them with `rewarddance lab study alignment --out {out}`")
    thresholds = None
    if "thresholds" in parts:
        seed = max(seeds, first_free_seed([folder for folders in finished.values() for folder in folders]))
        with progress("runs of another drawing, for thresholds", None) as show:
            calibration = calibration_runs(out, seed, jobs, show)
        detectors = fix_thresholds([read_recorded(folder) for folder in calibration], looks_of("refl"))
        thresholds = thresholds_of(detectors, calibration)
    print_json(write_guard_results(results / "guard.json", scored, thresholds))


def _search_study(out: Path, results: Path, seeds: int, jobs: int) -> None:
    from rewarddance.lab.search_study import SearchStudy, run_searches, search_cells, write_search_results

    cells = search_cells(range(seeds))
    with progress("study search", len(cells)) as show:
        rows = run_searches(SearchStudy(out / "search", out, cells, jobs), show)
    print_json(write_search_results(results / "search.json", rows))


def _overoptimization_study(out: Path, results: Path, seeds: int, jobs: int) -> None:
    from rewarddance.lab.overoptimization_study import CurveStudy, curve_cells, run_curves, write_curve_results

    cells = curve_cells(range(seeds))
    with progress("study overoptimization", len(cells)) as show:
        curves = run_curves(CurveStudy(out / "overoptimization", out, cells, jobs=jobs), show)
    print_json(write_curve_results(results / "overoptimization.json", curves))


def _context_study(
    out: Path, results: Path, seeds: int, jobs: int, sizes: tuple[_Size, ...], parts: tuple[str, ...]
) -> None:
    from rewarddance.lab.context_study import (
        InstructionStudy,
        instruction_cells,
        run_instructions,
        write_context_results,
    )
    from rewarddance.lab.reference_study import ReferenceStudy, reference_cells, run_references
    from rewarddance.lab.reward_study import StudySettings

    runs = StudySettings(out, tuple(range(seeds)), jobs=jobs)
    cells = instruction_cells(range(seeds), sizes) if "instructions" in parts else ()
    words = InstructionStudy(out / "context", runs, cells)
    with progress("study context: instructions", len(words.cells)) as show:
        rows = run_instructions(words, show)
    references = None
    if "references" in parts:
        images = ReferenceStudy(out / "context" / "references", out, reference_cells(range(seeds), sizes), jobs=jobs)
        with progress("study context: reference images", len(images.cells)) as show:
            references = images, run_references(images, show)
    print_json(write_context_results(results / "context.json", (words, rows), references))


def _reasoning_study(out: Path, results: Path, seeds: int, jobs: int, sizes: tuple[_Size, ...]) -> None:
    from rewarddance.lab.reasoning_study import (
        ReasoningStudy,
        reasoning_cells,
        run_reasoning,
        write_reasoning_results,
    )
    from rewarddance.lab.reward_study import StudySettings

    runs = StudySettings(out, tuple(range(seeds)), jobs=jobs)
    asked = ReasoningStudy(out / "reasoning", runs, reasoning_cells(range(seeds), sizes))
    with progress("study reasoning", len(asked.cells)) as show:
        rows = run_reasoning(asked, show)
    print_json(write_reasoning_results(results / "reasoning.json", asked, rows))


def _describing_study(
    name: Literal["describing", "describing_alone"], out: Path, results: Path, seeds: int, jobs: int
) -> None:
    from functools import partial

    from rewarddance.lab.describing_study import ITEMS, describing_cells, describing_study
    from rewarddance.lab.reasoning_study import run_reasoning, write_reasoning_results
    from rewarddance.lab.reward_study import StudySettings

    runs = StudySettings(out, tuple(range(seeds)), jobs=jobs)
    with progress("the base of the study", ITEMS[name]) as show:
        asked = describing_study(name, out / name, runs, show)
    with progress(f"study {name}", len(asked.cells)) as show:
        rows = run_reasoning(asked, show)
    print_json(write_reasoning_results(results / f"{name}.json", asked, rows, partial(describing_cells, name)))


def _pretrain_generator(out: Path, pictures: int | None, seed: int) -> None:
    from dataclasses import replace

    from rewarddance.lab.generator_pretraining import GeneratorRecipe, pretrain_generator

    recorded = GeneratorRecipe(seed=seed)
    recipe = recorded if pictures is None else replace(recorded, pictures=pictures)
    with progress("pretraining the generator", recipe.pictures) as show:
        print(pretrain_generator(recipe, out, show))
