"""Studies of describing: what rationales, reasons and a one-token student are worth to a base that can already write.

The ways, the comparisons and the figures are those of the study of reasoning, with the largest base. What is left of a
rationale to be learned is then when to give it, not how to write. Two bases are asked:

- `describing`: the base that ships, after lessons in describing beside those of its pretraining (`describing.py`). It
  has compared pictures all its life.
- `describing_alone`: a base that describes pictures of the whole world and has never compared two (`describer.py`).
  The comparisons are all that teaches it to, many of them or few.

Source:
    As in `reasoning_study`. The models of the paper, and of Z-Reward, can write before they judge.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from rewarddance.config.reasoning import RationaleConfig
from rewarddance.config.training import LoraConfig
from rewarddance.lab.base_models import BaseSize
from rewarddance.lab.describer import DescriberSettings, make_describer
from rewarddance.lab.describing import DescribingSettings, learn_to_describe
from rewarddance.lab.reasoning_study import ReasoningCell, ReasoningRecipe, ReasoningStudy, WayName
from rewarddance.lab.reward_study import COUNTS, StudySettings

DescribingName = Literal["describing", "describing_alone"]

SIZE: BaseSize = "small"
ITEMS = {"describing": DescribingSettings(SIZE).items, "describing_alone": DescriberSettings(SIZE).items}
"""Items that the base of a study sees."""

RECIPES = {
    "describing": ReasoningRecipe(rate=None, epochs=4, samples=1, taught_samples=1, temperature=0.0),
    "describing_alone": ReasoningRecipe(
        rate=2e-3,
        epochs=2,
        rationale=RationaleConfig(answer_weight=0.5, reason_first_share=0.75),
        plain_rate=2e-3,
        lora=LoraConfig(rank=16, alpha=32.0),
        samples=1,
        taught_samples=1,
        temperature=0.0,
    ),
}
"""In either, choices with and without rationales have one rate, and a question gets one greedy rationale: chosen on
other drawings. The second base keeps its eyes, and its language model learns by adapters: with every weight free it
forgets what it could say of faults that the comparisons do not have."""

FEW = 1000
WAYS: dict[DescribingName, tuple[WayName, ...] | None] = {
    "describing": None,
    "describing_alone": ("plain", "answer_first", "reason_first"),
}

_MAKERS: dict[DescribingName, Callable[[Path, Callable[[int], None] | None], Path]] = {
    "describing": partial(learn_to_describe, DescribingSettings(SIZE)),
    "describing_alone": partial(make_describer, DescriberSettings(SIZE)),
}


def describing_cells(name: DescribingName, seeds: Sequence[int]) -> tuple[ReasoningCell, ...]:
    """The largest base on all comparisons; the one that has never compared on few as well."""
    counts = (COUNTS["train"], FEW) if name == "describing_alone" else (COUNTS["train"],)
    return tuple(ReasoningCell(SIZE, count, seed) for seed in seeds for count in counts)


def describing_study(
    name: DescribingName, folder: Path, runs: StudySettings, on_progress: Callable[[int], None] | None = None
) -> ReasoningStudy:
    """A study with its base, which is made first if it is not there; resumable.

    Args:
        name: Which of the two.
        folder: Of the study.
        runs: Folder, data and seeds of `lab study paradigms`, whose comparisons are learned from.
        on_progress: Called with the number of items that the base has seen.
    """
    base = folder / "base" / "model"
    if not base.is_dir():
        _MAKERS[name](folder / "base", on_progress)
    return ReasoningStudy(folder, runs, describing_cells(name, runs.seeds), RECIPES[name], base, WAYS[name])
