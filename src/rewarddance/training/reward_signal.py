"""What a policy is rewarded with: one or several rewards, each on its own scale, weighted to one number a sample.

The same object serves methods that climb the reward's gradient (ReFL, DRaFT) and methods that only see its value
(Flow-GRPO, DiffusionNFT). A reward that fails makes no number: see `reward_attempts`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.core.errors import CheckpointError, NonFiniteError, UsageError
from rewarddance.rewards.pixel_batch import refuse_other_pixels
from rewarddance.training.reward_attempts import Patience, ask_patiently
from rewarddance.training.reward_normalisation import Normalisation, RewardNormaliser
from rewarddance.training.reward_references import (
    ReferenceImage,
    ReferenceUse,
    combine_references,
    picked,
    pixels_together,
    reference_pixels,
    required_references,
)
from rewarddance.training.reward_scorers import (
    JudgeReward,
    ModelReward,
    PixelReward,
    Reward,
    Scorer,
    ScorerReward,
    image_from_pixels,
    reward_from_model,
)

__all__ = [
    "JudgeReward",
    "ModelReward",
    "Normalisation",
    "Patience",
    "PixelReward",
    "ReferenceImage",
    "ReferenceUse",
    "Reward",
    "RewardSignal",
    "RewardValues",
    "Scorer",
    "ScorerReward",
    "image_from_pixels",
    "reward_from_model",
]

_CLIP_AXES = 5
_ONCE = Patience(deadline_seconds=None, tries=1)


@dataclass(frozen=True, slots=True)
class RewardValues:
    """What a batch of samples is worth.

    Attributes:
        combined: What is optimised: weighted sum of the normalised rewards, or the only reward as it is. It carries
            gradient when it was asked for.
        raw: Every reward by name in its own units (log-odds for a reward model), without gradient.
        proxy: Mean of the raw values by weight, without gradient: comparable from step to step, for logs and guards.
    """

    combined: Float[Tensor, " batch"]
    raw: Mapping[str, Float[Tensor, " batch"]]
    proxy: Float[Tensor, " batch"]


class RewardSignal:
    """One or several rewards as one."""

    def __init__(
        self,
        rewards: Sequence[Reward],
        normalisation: Normalisation | None = None,
        references: ReferenceUse | None = None,
        patience: Patience | None = None,
        seed: int = 0,
    ) -> None:
        """Check the rewards.

        Args:
            rewards: At least one, with different names. A single one with weight 1 is passed through as it is; every
                other is normalised first.
            normalisation: How several rewards come to one scale.
            references: How several reference images make one reward.
            patience: Deadline and tries of every call, but of rewards that keep time themselves.
            seed: Decides which reference is picked, where one is picked at random.

        Raises:
            UsageError: No reward, two of one name, something that is no reward, or a weight that is 0 or not finite.
        """
        for reward in rewards:
            require_reward(reward, Reward)
        names = [reward.name for reward in rewards]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"a policy needs rewards with different names; got {', '.join(names) or 'none'}")
        for reward in rewards:
            if reward.weight == 0 or not math.isfinite(reward.weight):
                raise UsageError(f"the weight of reward {reward.name!r} is {reward.weight}; leave the reward out")
        self._rewards = tuple(rewards)
        self._use = references or ReferenceUse()
        self._patience = patience or Patience()
        self._seed = seed
        self._passes_through = len(rewards) == 1 and rewards[0].weight == 1
        self._normaliser = RewardNormaliser(tuple(names), normalisation or Normalisation())

    @property
    def names(self) -> tuple[str, ...]:
        """Of the rewards, in order."""
        return tuple(reward.name for reward in self._rewards)

    @property
    def is_differentiable(self) -> bool:
        """Whether every reward has a gradient, so that `log_odds` can be asked for."""
        return all(reward.is_differentiable for reward in self._rewards)

    @property
    def needs_references(self) -> bool:
        """Whether any reward judges against reference images."""
        return any(reward.needs_references for reward in self._rewards)

    def log_odds(
        self,
        pixels: Float[Tensor, "batch *frames channels height width"],
        prompts: Sequence[str],
        references: Sequence[Sequence[ReferenceImage]] | None = None,
        *,
        optimizer_step: int = 0,
        is_training: bool = True,
    ) -> RewardValues:
        """Rewards whose gradient reaches the pixels.

        Args:
            pixels: Samples, float RGB in [0, 1]; clips have their frames after the batch.
            prompts: One a sample.
            references: Reference images of each prompt; needed when `needs_references`.
            optimizer_step: Decides a random pick among references.
            is_training: Let the batch into the running statistics; False when evaluating.

        Raises:
            UsageError: A reward has no gradient, counts do not match, or a reference is missing.
            RewardError: A reward gave no usable numbers.
            NonFiniteError: A sample has pixels that are no numbers: the generator's fault, not a reward's.
        """
        for reward in self._rewards:
            if not reward.is_differentiable:
                raise UsageError(f"reward {reward.name!r} has no gradient; use a method that needs none, or a model")
        return self._values(pixels, prompts, references, optimizer_step, is_training)

    def judge(
        self,
        pixels: Float[Tensor, "batch *frames channels height width"],
        prompts: Sequence[str],
        references: Sequence[Sequence[ReferenceImage]] | None = None,
        *,
        optimizer_step: int = 0,
        is_training: bool = True,
    ) -> RewardValues:
        """The same values without gradient, from rewards of every kind; arguments and errors as in `log_odds`."""
        with torch.no_grad():
            return self._values(pixels.detach(), prompts, references, optimizer_step, is_training)

    def combined(self, batches: Sequence[RewardValues]) -> Float[Tensor, " samples"]:
        """What is optimised of samples that are compared with each other, however they were cut into batches.

        Args:
            batches: Judged with `is_training=False`; they go into the running statistics now, as one batch, and all are
                normalised by the same.
        """
        raw = {name: torch.cat([values.raw[name] for values in batches]) for name in self.names}
        self._observe(raw)
        return self._combined(raw)

    def state_dict(self) -> dict[str, object]:
        """The running statistics as JSON; part of a checkpoint."""
        return {"normalisation": self._normaliser.state_dict()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over saved statistics.

        Raises:
            CheckpointError: They belong to other rewards.
        """
        moments = state.get("normalisation")
        if not isinstance(moments, Mapping):
            raise CheckpointError("the checkpoint has no statistics of the rewards; it is damaged or of another kind")
        self._normaliser.load_state_dict(moments)

    def _values(
        self,
        pixels: Tensor,
        prompts: Sequence[str],
        references: Sequence[Sequence[ReferenceImage]] | None,
        optimizer_step: int,
        is_training: bool,
    ) -> RewardValues:
        if not prompts or len(prompts) != len(pixels):
            raise UsageError(f"{len(pixels)} samples need as many prompts, at least one; got {len(prompts)}")
        refuse_broken_pixels(pixels, prompts, optimizer_step)
        raw = {reward.name: self._ask(reward, pixels, prompts, references, optimizer_step) for reward in self._rewards}
        weights = {reward.name: reward.weight for reward in self._rewards}
        if is_training:
            # Only now: a step in which one reward fails leaves no trace in the statistics of another.
            self._observe(raw)
        scale = sum(abs(weight) for weight in weights.values())
        detached = {name: values.detach() for name, values in raw.items()}
        proxy = torch.stack([weights[name] * values for name, values in detached.items()]).sum(0) / scale
        return RewardValues(self._combined(raw), detached, proxy)

    def _observe(self, raw: Mapping[str, Tensor]) -> None:
        for name, values in raw.items():
            self._normaliser.observe(name, values)

    def _combined(self, raw: Mapping[str, Tensor]) -> Tensor:
        if self._passes_through:
            return next(iter(raw.values()))
        parts = [one.weight * self._normaliser.normalised(one.name, raw[one.name]) for one in self._rewards]
        return torch.stack(parts).sum(0)

    def _ask(
        self,
        reward: Reward,
        pixels: Tensor,
        prompts: Sequence[str],
        references: Sequence[Sequence[ReferenceImage]] | None,
        optimizer_step: int,
    ) -> Tensor:
        """Values of one reward on the device of the pixels."""
        patience = _ONCE if reward.keeps_time else self._patience
        if not reward.needs_references:
            answer = ask_patiently(reward.name, lambda: reward.ask(pixels, prompts, None), prompts, patience)
            return answer.to(pixels.device)
        own = required_references(prompts, references, reward.name)
        if self._use.combine == "together":
            sets = [pixels_together(images, prompt) for images, prompt in zip(own, prompts, strict=True)]
            answer = ask_patiently(reward.name, lambda: reward.ask(pixels, prompts, sets), prompts, patience)
            return answer.to(pixels.device)
        rows: list[int] = []
        images: list[Tensor] = []
        for row, prompt in enumerate(prompts):
            for place in picked(prompt, len(own[row]), self._use, self._seed, optimizer_step):
                rows.append(row)
                images.append(reference_pixels(own[row][place]))
        asked = [prompts[row] for row in rows]
        shown = pixels if rows == list(range(len(prompts))) else pixels[rows]
        answers = ask_patiently(reward.name, lambda: reward.ask(shown, asked, images), asked, patience)
        places = torch.tensor(rows, device=answers.device)
        combined = [combine_references(answers[places == row], self._use) for row in range(len(prompts))]
        return torch.stack(combined).to(pixels.device)


def require_reward(given: object, wanted: type) -> None:
    """Stop at a function or a model where a reward of it is due.

    Raises:
        UsageError: It is something else.
    """
    if not isinstance(given, wanted):
        raise UsageError(
            f"{type(given).__name__} is no reward yet; make one with RewardSignal([ScorerReward(name, function)]), or "
            "RewardSignal([reward_from_model(model, name)]), of rewarddance.training.reward_signal"
        )


def refuse_broken_pixels(pixels: Tensor, prompts: Sequence[str], optimizer_step: int) -> None:
    """Stop at pictures that nobody can judge.

    Args:
        pixels: One row a prompt.
        prompts: Of the pictures.
        optimizer_step: Updates that the policy has had; without any, they are not to blame.

    Raises:
        NonFiniteError: Some pixel is not finite.
        UsageError: They are no RGB pictures or clips in [0, 1].
    """
    refuse_other_pixels(pixels, _CLIP_AXES)
    is_whole = pixels.detach().flatten(1).isfinite().all(1).tolist()
    broken = [prompt for prompt, whole in zip(prompts, is_whole, strict=True) if not whole]
    if broken:
        advice = (
            "resume with a smaller optimizer.learning_rate or precision=float32"
            if optimizer_step
            else "it has not been updated yet: begin another run with a smaller sampling.guidance or precision=float32"
        )
        raise NonFiniteError(
            f"the generator made pixels that are not finite for {len(broken)} of {len(prompts)} prompts, "
            f"first {broken[0]!r}; {advice}"
        )
