"""Reference images that the policy makes on its way: whether anybody reads them, and which prompts need them.

Only training does: evaluations and held-out judges compare with the first ones to the end of the run.
"""

from rewarddance.config.alignment import AlignConfig
from rewarddance.config.alignment_methods import DiffusionNftConfig, FlowGrpoConfig
from rewarddance.core.errors import UsageError
from rewarddance.training.prompt_draws import PromptDraws


def require_use_of_new_references(config: AlignConfig, needs_references: bool) -> None:
    """Stop where they would be made, which costs a tournament for every prompt, and nobody would read them.

    Args:
        config: Says whether they are made, and what is learned beside the reward.
        needs_references: Whether any reward compares with reference images.

    Raises:
        UsageError: Nobody would.
    """
    if config.makes_references and not (needs_references or config.regulariser.pretraining_data == "references"):
        every = config.references.refresh_every
        setting = "guard.action refresh_references" if every is None else "references.refresh_every"
        raise UsageError(
            f"{setting} makes new reference images, and no reward compares with any; leave it out, "
            "or name a pairwise reward model"
        )


def prompts_to_renew(
    config: AlignConfig, draws: PromptDraws, optimizer_step: int, updates_per_rollout: int
) -> tuple[str, ...]:
    """Prompts of all pictures that are made from here on, until references are due again or the run ends.

    Args:
        config: Says when they are due. The guard may ask for them earlier.
        draws: Prompts of every batch.
        optimizer_step: Updates made so far.
        updates_per_rollout: Of the method.
    """
    every, end = config.references.refresh_every, config.optimizer_steps
    if every is not None:
        later = range(optimizer_step + updates_per_rollout, end, updates_per_rollout)
        end = next((step for step in later if has_passed(step, every, updates_per_rollout)), end)
    batches = config.gradient_accumulation
    first, count = optimizer_step * batches, (end - optimizer_step) * batches
    group_size = config.method.group_size if isinstance(config.method, FlowGrpoConfig | DiffusionNftConfig) else 1
    prompts = draws.drawn(first, count, group_size)
    if group_size > 1 and config.regulariser.pretraining_data == "references":
        # The pre-training loss draws one picture a prompt, and so comes to others.
        prompts = tuple(dict.fromkeys((*prompts, *draws.drawn(first, count))))
    return prompts


def has_passed(optimizer_step: int, every: int, updates_per_rollout: int) -> bool:
    """Whether a multiple of `every` was passed since the rollout before."""
    before = max(0, optimizer_step - updates_per_rollout)
    return optimizer_step // every > before // every
