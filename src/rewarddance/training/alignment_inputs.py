"""What a config names, loaded: generator, rewards, held-out judges, reference images."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rewarddance.config.alignment import AlignConfig
from rewarddance.config.alignment_rewards import AskedModel, JudgeConfig
from rewarddance.core.errors import UsageError
from rewarddance.data.references import PromptReferences, ReferenceStore
from rewarddance.generators.adapter_file import adapter_file
from rewarddance.generators.loading import load_generator
from rewarddance.generators.protocol import Generator, ImageSize
from rewarddance.rewards.backbones.protocol import Backbone
from rewarddance.rewards.instructions import instruction_argument, load_instruction
from rewarddance.rewards.paradigm import Paradigm
from rewarddance.rewards.remote import RemoteRewardModel
from rewarddance.training.augmentation import moved, refuse_large_shifts
from rewarddance.training.clip_runs import names_clips, refuse_pictures_for_clips
from rewarddance.training.guard_observation import Features, HeldOutJudge
from rewarddance.training.judging_models import (
    JudgingModel,
    is_the_reward,
    judging_models,
    require_adapter,
    stored_kind,
)
from rewarddance.training.new_references import require_use_of_new_references
from rewarddance.training.regulariser import pretraining_pictures
from rewarddance.training.reward_settings import normalisation, patience, reference_use
from rewarddance.training.reward_signal import (
    ReferenceImage,
    ReferenceUse,
    Reward,
    RewardSignal,
    reward_from_model,
)
from rewarddance.training.run_folder import RunFolder
from rewarddance.training.served_reward import served_reward
from rewarddance.training.trained_parameters import compute_dtype
from rewarddance.training.workbench import ReferenceLookup

_log = logging.getLogger(__name__)


def configured_generator(config: AlignConfig) -> Generator:
    """The generator to tune, on the GPU if there is one.

    Raises:
        ModelError: It or its adapter is missing, unsafe, damaged, of an unknown family or of another generator.
    """
    settings = config.generator
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(config.precision if settings.dtype == "auto" else settings.dtype, device)
    return load_generator(settings.path, device, dtype, settings.revision, adapter=settings.adapter)


def require_generator_adapter(config: AlignConfig) -> None:
    """Stop before anything is loaded where the adapter of an earlier stage is not there.

    Raises:
        ModelError: Its folder holds none.
    """
    if config.generator.adapter is not None:
        adapter_file(config.generator.adapter)


@dataclass(frozen=True, slots=True)
class RunModels:
    """Reward models and held-out judges in the config's order; what both name is one model."""

    rewards: Sequence[JudgingModel]
    judges: Sequence[JudgingModel]


def run_models(config: AlignConfig, needs_rewards: bool = True, needs_judges: bool = True) -> RunModels:
    """The models of a run that are asked about pictures: loaded, or connected with.

    Args:
        config: Names them.
        needs_rewards: False where the caller has rewards already.
        needs_judges: Likewise.

    Raises:
        ModelError: One cannot be loaded, or its service gives other scores than it should.
        UsageError: What the config says of one does not fit it.
    """
    rewards, judges = config.rewards if needs_rewards else (), config.judges if needs_judges else ()
    models = judging_models((*rewards, *judges))
    return RunModels(models[: len(rewards)], models[len(rewards) :])


def configured_reward(config: AlignConfig, models: Sequence[JudgingModel] | None = None) -> RewardSignal:
    """The rewards as one.

    Args:
        config: Names and weighs them.
        models: Those of `run_models`; None loads them.

    Raises:
        ModelError: A reward model cannot be loaded.
    """
    names = _distinct([reward.model for reward in config.rewards])
    loaded = judging_models(config.rewards) if models is None else models
    rewards: list[Reward] = []
    for model, name, reward in zip(loaded, names, config.rewards, strict=True):
        criteria = _criteria(reward.instruction)
        if config.references.combine == "together" and model.kind == "pairwise" and not _knows_sets(model):
            _log.warning(
                "%s has not learned several reference images in one question (data.reference_sets); "
                "references.combine mean asks about one by one",
                name,
            )
        if isinstance(model, RemoteRewardModel):
            rewards.append(served_reward(model, name, reward.weight, criteria))
        else:
            is_checkpointed = config.generator.gradient_checkpointing
            rewards.append(reward_from_model(model, name, reward.weight, criteria, is_checkpointed))
    return RewardSignal(rewards, normalisation(config), reference_use(config), patience(config), config.seed)


def require_other_judges(config: AlignConfig) -> None:
    """Stop at a judge that is a reward under another name: a link, another way to write its path, or a copy.

    By other criteria, or looking at moved pictures, a model may judge itself; the config says what else is refused.

    Raises:
        UsageError: There is such a judge.
    """
    for judge, reward in product(config.judges, config.rewards):
        if is_the_reward(judge, reward):
            raise UsageError(
                f"judges names {judge.model}, which is the reward {reward.model} and would judge what it is pleased "
                "by; name a reward model of other comparisons, or set its `shift` if there is none"
            )


def shows_references(reward: RewardSignal, judges: Sequence[JudgingModel]) -> bool:
    """Whether a reward or a judge compares with reference images."""
    return reward.needs_references or any(judge.kind == "pairwise" for judge in judges)


def check_without_models(config: AlignConfig, prompts: Sequence[str]) -> None:
    """What can be known to be wrong before a model is loaded.

    Args:
        config: Names models by folder or hub id.
        prompts: All that the run will ask for.

    Raises:
        UsageError: Criteria are unknown, a model is of another kind, a judge is a reward, a shift is as large as the
            pictures, references would be made anew for nobody, or are needed and there are none, or none for some
            prompt; or the generator makes clips, and something knows pictures only.
        DataError: The references or the pre-training pictures cannot be used.
        ModelError: What is stored of a model cannot be read.
    """
    require_other_judges(config)
    require_generator_adapter(config)
    asked: tuple[AskedModel, ...] = (*config.rewards, *config.judges)
    for each in asked:
        if each.instruction is not None:
            load_instruction(instruction_argument(each.instruction))
        require_adapter(each)
    is_pairwise = [stored_kind(each) == "pairwise" for each in asked]
    require_use_of_new_references(config, any(is_pairwise[: len(config.rewards)]))
    if names_clips(config):
        refuse_pictures_for_clips(config, config.generator.path, any(is_pairwise))
    else:
        configured_references(config, prompts, config.references.folder is not None or any(is_pairwise))
    height, width = config.sampling.height, config.sampling.width
    if height is not None and width is not None:
        refuse_large_shifts(config, ImageSize(height, width))
    pretraining_pictures(config)


def configured_judges(
    config: AlignConfig, references: ReferenceLookup, models: Sequence[JudgingModel] | None = None
) -> dict[str, HeldOutJudge]:
    """Held-out judges by name.

    Args:
        config: Names them.
        references: What pairwise judges compare with; the same in the whole run, or evaluations could not be compared.
        models: Those of `run_models`; None loads them.

    Raises:
        ModelError: One cannot be loaded.
    """
    names = _distinct([judge.model for judge in config.judges])
    loaded = judging_models(config.judges) if models is None else models
    return {
        name: _held_out(name, model, judge, config, references)
        for name, model, judge in zip(names, loaded, config.judges, strict=True)
    }


@runtime_checkable
class PictureFeatures(Protocol):
    """A held-out judge that also says what it sees."""

    def features(self, pixels: Tensor) -> Tensor:
        """Frozen features of pictures (batch, 3, height, width) in [0, 1], one row each."""


def diversity_features(config: AlignConfig, judges: Mapping[str, HeldOutJudge]) -> Features | None:
    """What the diversity of pictures is measured by; None for their colours and edges."""
    held_out: Sequence[object] = tuple(judges.values())
    for judge in held_out:
        if config.diversity_features == "auto" and isinstance(judge, PictureFeatures):
            return judge.features
    return None


def _held_out(
    name: str, model: JudgingModel, judge: JudgeConfig, config: AlignConfig, references: ReferenceLookup
) -> HeldOutJudge:
    """A judge as the guard calls it; a failing one makes no number."""
    criteria = _criteria(judge.instruction)
    use = reference_use(config)
    if use.combine == "together" and not _knows_sets(model):
        use = ReferenceUse("mean")  # a judge that has to guess what three images mean judges nothing
    at_once = config.evaluation_batch_size or config.batch_size
    if isinstance(model, RemoteRewardModel):
        served = served_reward(model, name, instruction=criteria)
        signal = RewardSignal([served], references=use, patience=patience(config), seed=config.seed)
        return _HeldOutModel(signal, references, at_once, judge.shift)
    reward = reward_from_model(model, name, instruction=criteria)
    signal = RewardSignal([reward], references=use, patience=patience(config), seed=config.seed)
    device = next(model.module.parameters()).device
    return _SeeingModel(_HeldOutModel(signal, references, at_once, judge.shift, device), model.backbone, device)


@dataclass(frozen=True, slots=True)
class _HeldOutModel:
    """A reward model, wherever it runs, that is asked about the pictures of an evaluation."""

    signal: RewardSignal
    references: ReferenceLookup
    batch_size: int
    shift: int
    device: torch.device | None = None

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Sequence[float]:
        rewards: list[float] = []
        for first in range(0, len(prompts), self.batch_size):
            asked = prompts[first : first + self.batch_size]
            shown = moved(pixels[first : first + self.batch_size], self.shift, -self.shift).to(self.device)
            values = self.signal.judge(shown, asked, self.references(asked), optimizer_step=0, is_training=False)
            rewards += values.proxy.tolist()
        return rewards


@dataclass(frozen=True, slots=True)
class _SeeingModel:
    """One that runs here, and so also says what it sees."""

    asked: _HeldOutModel
    backbone: Backbone
    device: torch.device

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Sequence[float]:
        return self.asked(pixels, prompts)

    def features(self, pixels: Tensor) -> Tensor:
        """See `PictureFeatures`; those of the vision tower."""
        made: list[Tensor] = []
        for some in torch.split(pixels, self.asked.batch_size):
            made.append(self.backbone.picture_vectors(self.backbone.pictures_from_pixels(some.to(self.device))))
        return torch.cat(made)


def configured_references(config: AlignConfig, prompts: Sequence[str], needs_references: bool) -> ReferenceLookup:
    """Looks up the stored reference images of a prompt.

    Args:
        config: Names the folder.
        prompts: All that the run will ask for.
        needs_references: Whether any reward or judge is shown references.

    Raises:
        UsageError: References are needed, and there are none, or none for some prompt; or the generator makes clips.
        DataError: The folder cannot be used, or a picture has changed.
    """
    folder = config.references.folder
    if not needs_references:
        return lambda prompts: None
    if names_clips(config):
        refuse_pictures_for_clips(config, config.generator.path, needs_references)
    if folder is None:
        raise UsageError(
            "the reward compares with reference images, and references.folder is not set; "
            "make them with `rewarddance references`"
        )
    store = ReferenceStore.open(Path(folder))
    asked = config.references
    kept = store.settings.get(asked.kept)
    if kept is not None and asked.count > kept:
        lower = "lower it, or " if kept else ""
        raise UsageError(
            f"references.count is {asked.count}, and {folder} keeps {kept} of each prompt at the {asked.kept}; "
            f"{lower}make references in another folder with --{asked.kept} {asked.count}"
        )
    if lacking := store.lacking(prompts, asked.kept):
        raise UsageError(
            f"{folder} has no reference image for {len(lacking)} of {len(prompts)} prompts, such as {lacking[0]!r}; "
            "run `rewarddance references` on all prompts of the run, those of evaluations included"
        )
    store.require_unchanged(prompts)
    return (stored_references if asked.kept == "top" else worst_references)(store, asked.count)


@runtime_checkable
class MadeReferences(Protocol):
    """The part of a `ReferenceStore` that is asked here."""

    def best(self, prompt: str, count: int | None = None) -> Sequence[ReferenceImage]:
        """The best pictures of a prompt, best first."""

    def lacking(self, prompts: Sequence[str]) -> Sequence[str]:
        """Those of the prompts that have no picture."""

    def get(self, prompt: str) -> PromptReferences | None:
        """What became of a prompt; None if it was never asked for."""


def stored_references(store: MadeReferences, count: int) -> ReferenceLookup:
    """Looks the best pictures of prompts up in a store."""
    return lambda prompts: [store.best(prompt, count) for prompt in prompts]


def worst_references(store: ReferenceStore, count: int) -> ReferenceLookup:
    """Looks the worst pictures of prompts up, for an ablation."""
    return lambda prompts: [store.worst(prompt, count) for prompt in prompts]


def _knows_sets(model: object) -> bool:
    """Whether a model has learned to look at several reference images in one question."""
    return isinstance(model, Paradigm | RemoteRewardModel) and model.record.reference_mode == "together"


def _distinct(paths: Sequence[str]) -> list[str]:
    """Last parts of paths or ids (of a run's folder for its `model`), with a number where two are the same."""
    short = [_short(Path(path)) or path for path in paths]
    return [name if short.count(name) == 1 else f"{name} {place + 1}" for place, name in enumerate(short)]


def _short(path: Path) -> str:
    return path.parent.name if path.name == RunFolder(path.parent).model.name and path.parent.name else path.name


def _criteria(typed: str | None) -> str | Path | None:
    return None if typed is None else instruction_argument(typed)
