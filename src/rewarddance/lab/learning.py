"""One lab run: learn a reward model from noisy comparisons and measure it against gold, in and out of domain.

The demo and the studies are made of these; the work is done by the same training and evaluation code as on real
checkpoints, with the settings below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rewarddance.config.reasoning import DistillationConfig, RationaleConfig
from rewarddance.config.training import DataConfig, LoraConfig, LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from rewarddance.core.errors import RewardDanceError
from rewarddance.core.files import sha256_of
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.evaluation.evaluation_file import Provenance, write_evaluation
from rewarddance.evaluation.judgement_rows import ROWS_NAME
from rewarddance.evaluation.preference_accuracy import evaluate
from rewarddance.evaluation.preference_report import GoldReport, GroupReport, PreferenceReport
from rewarddance.lab.base_models import BaseSize
from rewarddance.lab.comparisons import LabData, Split
from rewarddance.rewards.folder import RECORD_NAME
from rewarddance.rewards.loading import load_reward_model, new_reward_model
from rewarddance.rewards.protocol import RewardKind, RewardModel
from rewarddance.rewards.reasoned_judging import ReasonedJudge
from rewarddance.rewards.reasoning_settings import ReasoningSettings
from rewarddance.training.reward_model import train_reward_model
from rewarddance.training.run import StepReport

TEST_SPLITS: tuple[Split, ...] = ("test_in", "test_out")
SPLIT_NAMES = {"test_in": "in domain", "test_out": "out of domain"}
MIN_GOLD_DIFFERENCE = 0.1
REASONED_NAME = "reasoned"

BEST_RATES: dict[BaseSize, float] = {"nano": 3e-4, "micro": 3e-4, "small": 1.5e-4}
"""Peak rates that were best on validation comparisons, for 4,000 comparisons seen twice."""

_FIRST_RATES: dict[BaseSize, float] = {"nano": 5e-4, "micro": 8e-4, "small": 3e-4}
"""Of the paradigms study, whose models the studies of alignment and search use; higher than is best."""

_BATCH = 32

RATIONALE = RationaleConfig(answer_weight=0.5, when_swapped="exchanged")
"""How the studies of reasoning and describing learn rationales; at the default answer weight of 0.1 the small models
learn to write and forget to answer."""


@dataclass(frozen=True, slots=True)
class LabRun:
    """What to learn, from what, and where to write it.

    Attributes:
        base: Folder of the base model.
        size: Its size, which decides the learning rate where none is given.
        kind: Paradigm.
        seed: Of order and new weights.
        epochs: How often each comparison is seen, in one order at random.
        learning_rate: Peak; None for that of the paradigms study.
        max_comparisons: Learn from fewer than there are; None for all.
        folder: Run directory.
        instruction: Name of the criteria that it is asked by.
        rationales: Folder with the same training comparisons and their rationales, which are then learned too; None
            for the choices alone.
        rationale: How they are learned.
        lora: Adapters on the language model, with the vision tower as it is; None trains every weight.
        distillation: The teacher whose answers are learned too; None for none.
    """

    base: Path
    size: BaseSize
    kind: RewardKind
    seed: int
    folder: Path
    epochs: int = 2
    learning_rate: float | None = None
    max_comparisons: int | None = None
    instruction: str = "none"
    rationales: Path | None = None
    rationale: RationaleConfig = RATIONALE
    lora: LoraConfig | None = None
    distillation: DistillationConfig | None = None


def training_config(run: LabRun, data: LabData) -> TrainConfig:
    """The run as a config, which the run directory keeps."""
    learned = min(run.max_comparisons or data.count("train"), data.count("train"))
    return TrainConfig(
        model=ModelConfig(
            base=str(run.base),
            kind=run.kind,
            instruction=run.instruction,
            freeze_vision=run.lora is not None,
            lora=run.lora,
        ),
        data=DataConfig(
            train=run.rationales or data.folder,
            evaluation=data.folder if run.rationales else None,
            evaluation_split="validation",
            max_comparisons=run.max_comparisons,
        ),
        optimizer=OptimizerConfig(learning_rate=run.learning_rate or _FIRST_RATES[run.size], weight_decay=0.02),
        loss=LossConfig(),
        rationale=run.rationale if run.rationales else None,
        distillation=run.distillation,
        batch_size=min(_BATCH, learned),
        epochs=run.epochs,
        orders="random",
        seed=run.seed,
        evaluation_comparisons=400,
        out=run.folder,
    )


def learn(run: LabRun, data: LabData, on_step: Callable[[StepReport], None] | None = None) -> RewardModel:
    """Train, or continue, or load what is finished already; returns the best model.

    Raises:
        RewardDanceError: SIGTERM came first; nothing is to be measured on half a model.
    """
    finished = run.folder / "model"
    if (finished / RECORD_NAME).is_file():
        return load_reward_model(finished)
    config = training_config(run, data)
    model = new_reward_model(run.base, run.kind, seed=run.seed, instruction=run.instruction)
    result = train_reward_model(config, model, resume=(run.folder / "config.yaml").is_file(), on_step=on_step)
    if not result.is_finished:
        raise RewardDanceError(f"{run.folder} was stopped before its end; the same command again continues it")
    return model


def clear_gold(group: GroupReport) -> GoldReport:
    """The figures on comparisons whose gold differs clearly: what the lab reports."""
    return next(part for part in group.gold if part.min_difference == MIN_GOLD_DIFFERENCE)


def model_digest(folder: Path) -> str:
    """What tells the answers of one saved model from those of another; the record holds the hash of every file."""
    return sha256_of(folder / RECORD_NAME)


def measure(
    model: RewardModel,
    data: LabData,
    folder: Path,
    name: str,
    on_judged: Callable[[int], None] | None = None,
    reasoning: ReasoningSettings | None = None,
) -> PreferenceReport:
    """Evaluate the model of a run on both test splits, in both orders, against gold.

    Answers and report are kept in `folder`, the run directory; in `reasoned/` of it when reasons are asked for.

    The figures of a split stand in `report.facets["split"]`.
    """
    comparisons = ComparisonSet.open(data.folder)
    asked = [(split, comparison) for split in TEST_SPLITS for comparison in comparisons.select(split=split)]
    place = folder if reasoning is None else folder / REASONED_NAME
    place.mkdir(parents=True, exist_ok=True)
    digest = model_digest(folder / "model")
    report = evaluate(
        model if reasoning is None else ReasonedJudge(model, reasoning),
        [comparison for _, comparison in asked],
        gold=[data.gold_difference(comparison.id) for _, comparison in asked],
        facets={"split": [SPLIT_NAMES[split] for split, _ in asked]},
        rows_path=place / ROWS_NAME,
        fingerprint=digest if reasoning is None else f"{digest} {reasoning}",
        on_progress=None if on_judged is None else lambda done, _: on_judged(done),
    )
    write_evaluation(place, report, Provenance(name=name, model=name, data=str(data.folder)))
    return report
