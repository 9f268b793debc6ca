"""The beginning of an alignment run: load what the config names, choose what learns, claim the folder, go back."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewarddance.config.alignment import AlignConfig
from rewarddance.config.alignment_methods import DiffusionNftConfig, DraftConfig, FlowGrpoConfig, ReflConfig
from rewarddance.core.errors import UsageError
from rewarddance.generators.protocol import Generator
from rewarddance.objectives.sde import SdeNoise, stochastic_places
from rewarddance.training.alignment_evaluation import Evaluation
from rewarddance.training.alignment_inputs import (
    configured_generator,
    configured_judges,
    configured_references,
    configured_reward,
    diversity_features,
    require_generator_adapter,
    require_other_judges,
    run_models,
    shows_references,
)
from rewarddance.training.alignment_prompts import evaluation_prompts, prompt_kinds, training_prompts
from rewarddance.training.alignment_run import MEAN_POLICY, AlignmentRun, ExtraCurves, RefreshReferences
from rewarddance.training.augmentation import refuse_large_shifts
from rewarddance.training.clip_runs import refuse_pictures_for_clips
from rewarddance.training.diffusion_nft import DiffusionNft
from rewarddance.training.draft import Draft
from rewarddance.training.flow_grpo import FlowGrpo
from rewarddance.training.guard import Guard
from rewarddance.training.guard_observation import HeldOutJudge
from rewarddance.training.input_digests import input_digests
from rewarddance.training.judging_models import JudgingModel
from rewarddance.training.method import Method
from rewarddance.training.new_references import require_use_of_new_references
from rewarddance.training.policy import Policy
from rewarddance.training.policy_optimizer import PolicyOptimizer
from rewarddance.training.prompt_draws import PromptDraws
from rewarddance.training.refl import Refl
from rewarddance.training.regulariser import Pretraining
from rewarddance.training.reward_signal import RewardSignal, require_reward
from rewarddance.training.run_folder import RunFolder
from rewarddance.training.tracking import write_environment
from rewarddance.training.workbench import ReferenceLookup, Workbench

METHODS: Mapping[type[Any], Callable[[Workbench, Any], Method]] = {
    ReflConfig: Refl,
    DraftConfig: Draft,
    FlowGrpoConfig: FlowGrpo,
    DiffusionNftConfig: DiffusionNft,
}
"""Methods by their block of the config."""


def start_alignment(
    config: AlignConfig,
    generator: Generator | None,
    reward: RewardSignal | None,
    judges: Mapping[str, HeldOutJudge] | None,
    guard: Guard | None,
    references: ReferenceLookup | None,
    extra_curves: ExtraCurves | None,
    refresh: RefreshReferences | None,
    resume: bool,
    digests: Mapping[str, str] | None = None,
) -> AlignmentRun:
    """Make everything ready; the arguments are those of `align`."""
    _check_possible(config, refresh, reward)
    folder = RunFolder(config.out)
    folder.check(config, resume)
    needs_judges = judges is None and guard is None
    digests = _checked_digests(
        config,
        resume,
        digests,
        {
            "generator": generator,
            "rewards": reward,
            "judges": guard if judges is None else judges,
            "references": references,
        },
    )
    if needs_judges:
        require_other_judges(config)
    if generator is None:
        require_generator_adapter(config)
    prompts = training_prompts(config)
    fixed = evaluation_prompts(config, prompts)
    models = run_models(config, needs_rewards=reward is None, needs_judges=needs_judges)
    reward = reward or _read_reward(config, models.rewards)
    _require_gradient(config, reward)
    if references is None:
        every_prompt = tuple(dict.fromkeys((*prompts, *fixed)))
        references = configured_references(config, every_prompt, shows_references(reward, models.judges))
    if needs_judges:
        judges = configured_judges(config, references, models.judges)
    features = diversity_features(config, judges or {})
    if guard is None and config.guard is not None:
        guard = Guard(config.guard, judges or {}, features)
    generator = generator or configured_generator(config)
    _check_clips(config, generator, shows_references(reward, models.judges))
    generator.gradient_checkpointing(config.generator.gradient_checkpointing)
    policy = Policy(generator, config.generator.lora, config.precision, config.seed)
    bench = Workbench(config, policy, reward, PromptDraws(config.seed, prompts, config.batch_size), references)
    _check_steps(bench)
    refuse_large_shifts(config, bench.size or generator.default_size)
    method = METHODS[type(config.method)](bench, config.method)
    if refresh is not None:
        policy.average(MEAN_POLICY)
    optimizer = PolicyOptimizer(policy, config.optimizer, config.optimizer_steps)
    evaluation = Evaluation(bench, fixed, judges or {}, guard, features, prompt_kinds(config))
    run = AlignmentRun(
        config, folder, bench, method, optimizer, Pretraining(bench), evaluation, guard, extra_curves, refresh
    )
    if resume:
        run.restore()
    # Not before: a run that could not begin would leave a folder that the corrected one cannot have.
    folder.claim(config, run.progress.optimizer_step, digests)
    write_environment(folder.environment, config.seed, 1, policy.device)
    return run


def _check_possible(config: AlignConfig, refresh: RefreshReferences | None, reward: RewardSignal | None) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("alignment runs in one process on one GPU for now; start it without torchrun")
    if config.makes_references and refresh is None:
        raise UsageError(
            "new reference images are asked for, and nobody was given to make them; pass refresh_references"
        )
    if reward is not None:
        require_reward(reward, RewardSignal)


def _require_gradient(config: AlignConfig, reward: RewardSignal) -> None:
    if isinstance(config.method, ReflConfig | DraftConfig) and not reward.is_differentiable:
        raise UsageError(
            f"method {config.method.name} climbs the reward's gradient, and a reward has none; "
            "choose flow_grpo or diffusion_nft"
        )


def _checked_digests(
    config: AlignConfig, resume: bool, digests: Mapping[str, str] | None, given: Mapping[str, object]
) -> Mapping[str, str]:
    """Of all that the run reads, without what the caller made itself; a resumed run reads what it has read so far."""
    if digests is None:
        digests = input_digests(config, [block for block, part in given.items() if part is not None])
    if resume:
        RunFolder(config.out).check_inputs(digests)
    return digests


def _read_reward(config: AlignConfig, models: Sequence[JudgingModel]) -> RewardSignal:
    """That of the config. Only it must have a use for new references: a caller's own may know another way to them."""
    reward = configured_reward(config, models)
    require_use_of_new_references(config, reward.needs_references)
    return reward


def _check_clips(config: AlignConfig, generator: Generator, shows_any: bool) -> None:
    """Whether everything that the run has for clips knows them; references that a caller looks up are the caller's."""
    if generator.default_size.frames is not None:
        refuse_pictures_for_clips(config, generator.name, shows_any and config.references.folder is not None)


def _check_steps(bench: Workbench) -> None:
    """Whether the sampler has the steps that the method wants."""
    method, steps = bench.config.method, len(bench.sigmas) - 1
    if isinstance(method, DraftConfig) and method.last_steps > steps:
        raise UsageError(f"method.last_steps is {method.last_steps}, and there are only {steps} denoising steps")
    if isinstance(method, FlowGrpoConfig):
        noise = SdeNoise(method.noise, method.noise_level)
        possible = len(stochastic_places(bench.sigmas, noise))
        if (method.stochastic_steps or 1) > possible:
            raise UsageError(
                f"method.stochastic_steps is {method.stochastic_steps or 'all'}, and of {steps} denoising steps "
                f"at most {possible} can be stochastic: the others would leave noise in the picture; set "
                "method.noise cps, a lower method.noise_level, or more denoising steps"
            )
