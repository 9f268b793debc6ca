"""Study of describing: what rationales, reasons and a one-token student are worth to a base that can already write.

The ways, the comparisons and the figures are those of the study of reasoning, with the largest base; before any of
them it learns to describe two pictures (`describing.py`). What is left of a rationale to be learned is then when to
give it, not how to write.

Source:
    As in `reasoning_study`. The models of the paper, and of Z-Reward, can write before they judge.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from rewarddance.lab.base_models import BaseSize
from rewarddance.lab.describing import DescribingSettings, learn_to_describe
from rewarddance.lab.reasoning_study import ReasoningCell, ReasoningRecipe, ReasoningStudy
from rewarddance.lab.reward_study import COUNTS, StudySettings

SIZE: BaseSize = "small"
RECIPE = ReasoningRecipe(rate=None, epochs=4, samples=1, taught_samples=1, temperature=0.0)
"""The rate is that of the choices alone, and a question gets one greedy rationale: chosen on other drawings."""


def describing_cells(seeds: Sequence[int]) -> tuple[ReasoningCell, ...]:
    """The largest base on all comparisons."""
    return tuple(ReasoningCell(SIZE, COUNTS["train"], seed) for seed in seeds)


def describing_study(
    folder: Path, runs: StudySettings, on_progress: Callable[[int], None] | None = None
) -> ReasoningStudy:
    """The study with its base, which is made first if it is not there; resumable.

    Args:
        folder: Of the study.
        runs: Folder, data and seeds of `lab study paradigms`, whose comparisons are learned from.
        on_progress: Called with the number of items that the base has seen.
    """
    made = folder / "base" / "model"
    base = made if made.is_dir() else learn_to_describe(DescribingSettings(SIZE), folder / "base", on_progress)
    return ReasoningStudy(folder, runs, describing_cells(runs.seeds), RECIPE, base)
