"""One alignment run in the lab: prompts, reference images, the run's config, and gold beside it.

The demo and the studies are made of these; the work is done by the same code as on real generators.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rewarddance.config.alignment import (
    AlignConfig,
    AugmentationConfig,
    GeneratorConfig,
    GeneratorLoraConfig,
    PolicyOptimizerConfig,
    PromptsConfig,
    ReferencesConfig,
    RegulariserConfig,
)
from rewarddance.config.alignment_methods import FlowGrpoConfig, MethodConfig, ReflConfig
from rewarddance.config.alignment_rewards import JudgeConfig, RewardConfig
from rewarddance.config.guard import GuardConfig
from rewarddance.config.loader import load_config
from rewarddance.core.errors import UsageError
from rewarddance.core.files import write_text_atomic
from rewarddance.core.seeding import numpy_rng
from rewarddance.data.prompts import read_prompts
from rewarddance.generators.loading import load_generator
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.lab.gold_curves import gold_curves
from rewarddance.lab.prompts import KINDS, sample_prompt
from rewarddance.reports.json_files import read_json_lines
from rewarddance.rewards.loading import load_reward_model
from rewarddance.search.references import TournamentSettings, make_references, pictures_of
from rewarddance.training.alignment import AlignmentResult, align
from rewarddance.training.run_folder import RunFolder

MethodName = Literal["refl", "flow_grpo"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)

TRAIN_NAME, HELD_OUT_NAME, WIDE_NAME = "train.txt", "held_out.txt", "held_out_wide.txt"
GOLD_SAMPLES = 4
JUDGE_SHIFT = 3

_DRAWS = 600
_EVALUATION_BATCH = 48
_HELD_OUT_SHARE = 0.25
_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")


@dataclass(frozen=True, slots=True)
class LabAlignment:
    """What to tune the lab's generator towards, how, and where to write it.

    Attributes:
        folder: Run directory.
        prompts: Folder of `write_prompts`.
        references: Folder of `draw_references`.
        reward: Reward model that is optimised.
        judges: Reward models of other comparisons, held out for the guard.
        method: How.
        optimizer_steps: Updates.
        learning_rate: Of the adapters.
        decay: How the learning rate goes on after its warm-up.
        velocity_weight: How strongly the policy is held near the base.
        chosen_weight: How strongly the reference images draw the policy towards them.
        chosen_steps: Updates in which they do; None for all.
        references_used: Reference images of a prompt, one of which at random is in a question.
        references_kept: The best of them, or the worst.
        shift: Largest shift of pictures before the reward sees them, in pixels.
        noise: Noise on them.
        guard: Who watches; None for nobody.
        evaluate_every: Updates between evaluations.
        held_out: Name of their list.
        evaluation_prompts: Held-out prompts that the judges see.
        evaluation_samples: Pictures of each.
        gold_samples: Pictures of every held-out prompt by which gold is measured.
        batch_size: Pictures of an update.
        seed: Decides prompts, noise and adapters.
    """

    folder: Path
    prompts: Path
    references: Path
    reward: Path
    judges: tuple[Path, ...]
    method: MethodName = "refl"
    optimizer_steps: int = 100
    learning_rate: float = 5e-4
    decay: Literal["constant", "cosine"] = "constant"
    velocity_weight: float = 0.1
    chosen_weight: float = 0.0
    chosen_steps: int | None = None
    references_used: int = 1
    references_kept: Literal["top", "bottom"] = "top"
    shift: int = 3
    noise: float = 0.03
    guard: GuardConfig | None = None
    evaluate_every: int = 10
    held_out: str = HELD_OUT_NAME
    evaluation_prompts: int = 24
    evaluation_samples: int = 3
    gold_samples: int = GOLD_SAMPLES
    batch_size: int = 8
    seed: int = 0


def write_prompts(folder: Path, seed: int, per_kind: int = 32) -> None:
    """Draw prompts of the domain: those to learn on, and two lists of others.

    Args:
        folder: Gets `train.txt`; `held_out.txt`, a quarter of each kind; and `held_out_wide.txt`, the same and as many
            more of each kind as there are, up to half of `per_kind`.
        seed: Decides which.
        per_kind: Prompts of each kind for the first two lists together; some kinds have fewer.
    """
    lists: dict[str, list[str]] = {TRAIN_NAME: [], HELD_OUT_NAME: [], WIDE_NAME: []}
    for kind in KINDS:
        rng = numpy_rng(seed, "alignment prompts", kind)
        found = list(dict.fromkeys(sample_prompt(rng, "in", kind).text for _ in range(_DRAWS)))
        drawn, more = found[:per_kind], found[per_kind : per_kind + per_kind // 2]
        count = max(1, round(_HELD_OUT_SHARE * len(drawn)))
        lists[TRAIN_NAME] += drawn[count:]
        lists[HELD_OUT_NAME] += drawn[:count]
        lists[WIDE_NAME] += drawn[:count] + more
    folder.mkdir(parents=True, exist_ok=True)
    for name, prompts in lists.items():
        write_text_atomic(folder / name, "\n".join(prompts) + "\n")


def draw_references(
    folder: Path,
    prompts: Path,
    judge: Path,
    candidates: int = 4,
    top: int = 1,
    bottom: int = 0,
    names: Sequence[str] = (TRAIN_NAME, HELD_OUT_NAME),
    seed: int = 0,
    on_done: Callable[[int], None] | None = None,
) -> None:
    """The best and worst of `candidates` of the base generator for every prompt; continued if begun.

    Args:
        folder: Where.
        prompts: Folder of `write_prompts`.
        judge: Reward model that chooses.
        candidates: Pictures of a prompt.
        top: How many of the best are kept.
        bottom: How many of the worst.
        names: Lists of prompts; those held out are rewarded against references as well.
        seed: Decides the noise.
        on_done: Told how many prompts are done.
    """
    asked = [item for name in names for item in read_prompts(prompts / name)]
    settings = TournamentSettings(
        "lab:drawn", judge.parent.name, candidates=candidates, top=top, bottom=bottom, seed=seed
    )
    generator = load_generator(str(lab_generator()))
    make_references(pictures_of(generator), load_reward_model(judge), asked, folder, settings, on_progress=on_done)


def prompt_count(prompts: Path) -> int:
    """How many prompts a folder of `write_prompts` holds."""
    return sum(len(read_prompts(prompts / name)) for name in (TRAIN_NAME, HELD_OUT_NAME))


def gold_by_step(folder: Path) -> dict[int, float]:
    """Mean gold of each evaluation of a run, by optimizer step."""
    rows = read_json_lines(RunFolder(folder).evaluations)
    return {row["optimizer_step"]: row["extra"]["gold"] for row in rows}


def alignment_config(run: LabAlignment) -> AlignConfig:
    """The run as a config, which the run directory keeps."""
    # The later half: predictions of the earlier half are blends of several pictures, which no reward model has learned
    # to judge, and climbing them costs alignment (docs/experiments.md).
    method: MethodConfig = ReflConfig(window=(0.45, 1.0))
    if run.method == "flow_grpo":
        method = FlowGrpoConfig(group_size=8, initial_noise="group", stochastic_steps=4, clip_range=1e-3)
    return AlignConfig(
        generator=GeneratorConfig(path=str(lab_generator()), lora=GeneratorLoraConfig(target_modules=_ADAPTED)),
        rewards=(RewardConfig(model=str(run.reward)),),
        judges=tuple(JudgeConfig(model=str(judge), shift=JUDGE_SHIFT) for judge in run.judges),
        prompts=PromptsConfig(train=run.prompts / TRAIN_NAME, held_out=run.prompts / run.held_out),
        references=ReferencesConfig(
            folder=run.references, count=run.references_used, kept=run.references_kept, combine="random"
        ),
        method=method,
        augmentation=AugmentationConfig(shift=run.shift, noise=run.noise),
        regulariser=RegulariserConfig(
            velocity_weight=run.velocity_weight,
            pretraining_weight=run.chosen_weight,
            pretraining_data="references" if run.chosen_weight else None,
            pretraining_steps=run.chosen_steps,
        ),
        optimizer=PolicyOptimizerConfig(learning_rate=run.learning_rate, decay=run.decay),
        diversity_features="pixels",
        guard=run.guard,
        batch_size=run.batch_size,
        optimizer_steps=run.optimizer_steps,
        evaluation_prompts=run.evaluation_prompts,
        evaluation_samples=run.evaluation_samples,
        evaluation_batch_size=_EVALUATION_BATCH,
        evaluate_every=run.evaluate_every,
        save_every=run.optimizer_steps,
        samples_every=run.optimizer_steps,
        seed=run.seed,
        out=run.folder,
    )


def require_made_as(run: LabAlignment) -> None:
    """Stop at a finished run of other settings: what is in one table was made alike.

    Raises:
        UsageError: The folder holds such a run.
    """
    made = load_config(AlignConfig, run.folder / "config.yaml")
    found, wanted = _what_counts(made), _what_counts(alignment_config(run))
    differing = [name for name, value in wanted.items() if found[name] != value]
    if differing:
        raise UsageError(
            f"{run.folder} is a run with another {', '.join(differing)} than the study's; "
            "give another --out, or remove it"
        )


def _what_counts(config: AlignConfig) -> dict[str, Any]:
    """Settings but for places of files, which differ from one checkout to another."""
    names = ("optimizer_steps", "evaluate_every", "batch_size", "evaluation_prompts", "evaluation_samples", "method")
    named = {name: getattr(config, name) for name in names}
    return named | {
        "learning_rate": config.optimizer.learning_rate,
        "number of judges": len(config.judges),
        "references": (config.references.count, config.references.kept),
        "augmentation": config.augmentation,
    }


def align_in_lab(run: LabAlignment) -> AlignmentResult:
    """Tune, or continue; every evaluation carries gold under `extra`."""
    held_out = [item.prompt for item in read_prompts(run.prompts / run.held_out)]
    config = alignment_config(run)
    curves = gold_curves(held_out, run.gold_samples, seed=0)
    return align(config, evaluate=curves, resume=(run.folder / "config.yaml").is_file())
