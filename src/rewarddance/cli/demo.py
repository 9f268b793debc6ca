"""`rewarddance demo`: the lab end to end in minutes."""

from pathlib import Path
from typing import Annotated

import typer

from rewarddance.cli.options import AsJson, place_option
from rewarddance.cli.output import number_in_words, print_json, print_table
from rewarddance.cli.progress import hide_transformers_bars, progress


def demo(
    out: Annotated[Path, place_option("Folder for models, answers and the report; continued if it exists.")] = Path(
        "runs/demo"
    ),
    comparisons: Annotated[int, typer.Option(min=64, help="Comparisons to learn from.")] = 1600,
    test: Annotated[int, typer.Option(min=20, help="Comparisons of each of the two test splits.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Decides the world, the choices and the training.")] = 0,
    json: AsJson = False,
) -> None:
    """Draw a small world, learn two reward models from noisy choices, tune a generator with one, and search."""
    from rewarddance.lab.demo import REPORT_NAME, DemoSettings, run_demo

    hide_transformers_bars()
    summary = run_demo(DemoSettings(folder=out, train=comparisons, test=test, seed=seed), progress)
    if json:
        print_json(summary)
        return
    rows = [
        (
            kind,
            split,
            "{gold_accuracy:.3f}  [{gold_accuracy_low:.3f}, {gold_accuracy_high:.3f}]".format(**figures),
            number_in_words(figures["share_inconsistent_one_order"]),
        )
        for kind, splits in summary["models"].items()
        for split, figures in splits.items()
    ]
    print_table(("model", "comparisons", "accuracy against gold", "depends on order"), rows)
    print(f"{summary['seconds']:.0f} s; open {out / REPORT_NAME}")
