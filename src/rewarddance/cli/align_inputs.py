"""What `rewarddance align` hands to the trainer, which lies below the lab and cannot look its names up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rewarddance.cli.model_names import LAB_PREFIX, generator_location, model_location
from rewarddance.core.errors import UsageError
from rewarddance.core.fingerprints import model_fingerprint

if TYPE_CHECKING:
    from rewarddance.config.alignment import AlignConfig
    from rewarddance.generators.protocol import Generator
    from rewarddance.training.alignment_run import ExtraCurves, RefreshReferences
    from rewarddance.training.guard_observation import HeldOutJudge
    from rewarddance.training.judging_models import JudgingModel
    from rewarddance.training.reward_signal import RewardSignal
    from rewarddance.training.workbench import ReferenceLookup


@dataclass(frozen=True, slots=True)
class AlignInputs:
    """Arguments of the trainer's `align`; None for what it loads itself."""

    generator: "Generator | None" = None
    reward: "RewardSignal | None" = None
    judges: "Mapping[str, HeldOutJudge] | None" = None
    references: "ReferenceLookup | None" = None
    refresh_references: "RefreshReferences | None" = None
    extra_curves: "ExtraCurves | None" = None
    digests: Mapping[str, str] | None = None


def located(config: "AlignConfig") -> "AlignConfig":
    """The same config with folders in place of the lab's names.

    Raises:
        UsageError: The lab has no such model.
    """
    generator = config.generator.model_copy(update={"path": generator_location(config.generator.path)})
    rewards = tuple(each.model_copy(update={"model": model_location(each.model)}) for each in config.rewards)
    judges = tuple(each.model_copy(update={"model": model_location(each.model)}) for each in config.judges)
    return config.model_copy(update={"generator": generator, "rewards": rewards, "judges": judges})


def load_inputs(config: "AlignConfig", resume: bool) -> AlignInputs:
    """Load what the trainer cannot: models with names of the lab, and a maker of new reference images.

    Args:
        config: As the user wrote it.
        resume: Whether the run continues.

    Raises:
        UsageError: The folder holds a run already, parts of the config do not fit each other, or what the run to
            resume has read is not what it was.
        ModelError: A model cannot be loaded.
        DataError: A list of prompts, or the references, cannot be used.
    """
    models = [*(each.model for each in config.rewards), *(each.model for each in config.judges)]
    named = (config.generator.path, *models)
    if not config.makes_references and not any(name.startswith(LAB_PREFIX) for name in named):
        return AlignInputs()
    from rewarddance.training import alignment_inputs as load
    from rewarddance.training.alignment_prompts import evaluation_prompts, training_prompts
    from rewarddance.training.input_digests import input_digests
    from rewarddance.training.new_references import require_use_of_new_references
    from rewarddance.training.regulariser import pretraining_pictures
    from rewarddance.training.run_folder import RunFolder

    # What is quick to check comes before what is slow to load.
    RunFolder(config.out).check(config, resume)
    require_first_references(config)
    found = located(config)
    digests = input_digests(found)
    if resume:
        RunFolder(config.out).check_inputs(digests)
    if resume and config.makes_references:
        _forget_other_references(config)
    load.require_other_judges(found)
    load.require_generator_adapter(found)
    training = training_prompts(found)
    evaluated = evaluation_prompts(found, training)
    pretraining_pictures(found)
    prompts = tuple(dict.fromkeys((*training, *evaluated)))
    judging = load.run_models(found)
    reward = load.configured_reward(found, judging.rewards)
    require_use_of_new_references(found, reward.needs_references)
    references = load.configured_references(found, prompts, load.shows_references(reward, judging.judges))
    return AlignInputs(
        generator=load.configured_generator(found),
        reward=reward,
        judges=load.configured_judges(found, references, judging.judges),
        references=references,
        refresh_references=_refresher(found, judging.rewards[0], training) if config.makes_references else None,
        extra_curves=_gold(config, evaluated),
        digests=digests,
    )


def require_first_references(config: "AlignConfig") -> None:
    """Stop where new reference images would be made, and there are none to tell how.

    Raises:
        UsageError: `references.folder` is not set.
    """
    if config.makes_references and config.references.folder is None:
        raise UsageError(
            "new references are made as the first ones were, and references.folder is not set; "
            "make them with `rewarddance references`"
        )


def _forget_other_references(config: "AlignConfig") -> None:
    """A run that goes on with other settings comes to another policy, whose references are not those that lie there."""
    from rewarddance.data.references import forget_generations_after
    from rewarddance.training.alignment_progress import AlignmentProgress
    from rewarddance.training.checkpoints import newest_complete
    from rewarddance.training.run_folder import RunFolder

    folder = RunFolder(config.out)
    if folder.is_changed(config):
        checkpoint = newest_complete(folder.checkpoints, AlignmentProgress)
        step = 0 if checkpoint is None else checkpoint.progress.optimizer_step
        forget_generations_after(folder.references, step)


def _gold(config: "AlignConfig", prompts: "Sequence[str]") -> "ExtraCurves | None":
    """Gold of the lab's generator beside the run's own figures; None for others, and for prompts of another world."""
    if not config.generator.path.startswith(LAB_PREFIX):
        return None
    from rewarddance.lab.alignment import GOLD_SAMPLES
    from rewarddance.lab.gold_curves import gold_curves
    from rewarddance.lab.prompts import parse_prompt

    try:
        for prompt in prompts:
            parse_prompt(prompt)
    except ValueError:
        return None
    return gold_curves(prompts, GOLD_SAMPLES, seed=0)


def _refresher(config: "AlignConfig", model: "JudgingModel", prompts: tuple[str, ...]) -> "RefreshReferences":
    """New references are made as the first ones were, but by the policy; the run's first reward model judges them."""
    from rewarddance.data.prompts import PromptItem
    from rewarddance.data.references import ReferenceStore
    from rewarddance.generators.protocol import ImageSize
    from rewarddance.search.references import TournamentSettings, pictures_of, reference_refresher
    from rewarddance.training.run_folder import RunFolder

    assert config.references.folder is not None  # `require_first_references`
    first = TournamentSettings(**ReferenceStore.open(config.references.folder).settings)
    judge = config.rewards[0]
    settings = replace(first, judge=model_fingerprint(judge.model, judge.adapter, judge.revision, judge.kind))
    sampling = settings.sampling
    height, width = sampling.get("height"), sampling.get("width")
    size = ImageSize(height, width) if isinstance(height, int) and isinstance(width, int) else None
    steps, guidance = sampling.get("denoising_steps"), sampling.get("guidance")
    return reference_refresher(
        model,
        [PromptItem(f"{place:06d}", prompt) for place, prompt in enumerate(prompts)],
        RunFolder(config.out).references,
        settings,
        lambda policy: pictures_of(
            policy,
            size,
            steps if isinstance(steps, int) else None,
            float(guidance) if isinstance(guidance, int | float) else None,
            config.batch_size,
        ),
    )
