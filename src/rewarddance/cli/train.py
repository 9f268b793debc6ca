"""`rewarddance train`: learn a reward model from comparisons."""

import os
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewarddance.cli.model_names import LAB_PREFIX, model_location
from rewarddance.cli.options import AsJson, Overrides, Resume, RunDirectory, with_run_directory
from rewarddance.cli.output import plain, print_json
from rewarddance.cli.progress import hide_transformers_bars

if TYPE_CHECKING:
    from rewarddance.config.training import TrainConfig
    from rewarddance.rewards.protocol import RewardModel
    from rewarddance.training.reward_model import TrainingResult


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `config show train` lists its keys.")],
    overrides: Overrides = None,
    out: RunDirectory = None,
    resume: Resume = False,
    json: AsJson = False,
) -> None:
    """Learn a reward model. Several processes: `torchrun --nproc-per-node 8 -m rewarddance train CONFIG`."""
    from rewarddance.config.loader import load_config
    from rewarddance.config.training import TrainConfig

    settings = load_config(TrainConfig, config, with_run_directory(overrides, out))
    from rewarddance.core.files import locked_folder

    is_main = os.environ.get("RANK", "0") == "0"
    # Not later: whoever is second in a folder need not wait for the libraries.
    with locked_folder(settings.out) if is_main else nullcontext():
        from rewarddance.training.reward_model import train_reward_model

        hide_transformers_bars()
        model = _lab_model(settings)
    result = train_reward_model(settings, model=model, resume=resume)
    if not is_main:
        return
    if json:
        print_json(plain(asdict(result)))
    else:
        _print_result(result)


def _lab_model(settings: "TrainConfig") -> "RewardModel | None":
    # Training lies below the lab and cannot look its names up.
    if not settings.model.base.startswith(LAB_PREFIX):
        return None
    from rewarddance.rewards.folder import MediaSettings
    from rewarddance.rewards.loading import new_reward_model

    chosen = settings.model
    return new_reward_model(
        model_location(chosen.base),
        chosen.kind,
        seed=settings.seed,
        instruction=chosen.instruction,
        reference_mode="together" if settings.data.reference_sets else "one_by_one",
        media=MediaSettings(min_pixels=chosen.min_pixels, max_pixels=chosen.max_pixels),
        attention=chosen.attention,
    )


def _print_result(result: "TrainingResult") -> None:
    if not result.is_finished:
        print(f"stopped after {result.optimizer_steps} optimizer steps; --resume continues {result.folder}")
        return
    accuracy = "" if result.best_accuracy is None else f", held-out accuracy {result.best_accuracy:.3f}"
    print(f"{result.optimizer_steps} optimizer steps{accuracy}: {result.model_folder}")
