"""What every alignment method works with: the policy, its reward, prompts, noise levels, and the pull towards home."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from rewarddance.config.alignment import AlignConfig
from rewarddance.config.sampling import SamplingConfig
from rewarddance.generators.protocol import Conditions, ImageSize
from rewarddance.generators.sampling import noise_levels, sample
from rewarddance.training.augmentation import augmented
from rewarddance.training.policy import Policy
from rewarddance.training.prompt_draws import PromptDraws
from rewarddance.training.reward_signal import ReferenceImage, RewardSignal, RewardValues

ReferenceLookup = Callable[[Sequence[str]], Sequence[Sequence[ReferenceImage]] | None]
"""Reference images of prompts; None where the rewards need none."""


@dataclass(frozen=True, slots=True)
class LossPart:
    """A piece of one optimizer step's loss: one backward pass.

    Attributes:
        loss: With gradient; the pieces of a step add up to its loss.
        prompts: Of the pictures in it.
        rewards: Log-odds of the pictures, without gradient; None where nobody judged them.
        distance: From the reference policy, one a picture; None when not measured.
        figures: What the method wants to be seen of it.
    """

    loss: Float[Tensor, ""]
    prompts: tuple[str, ...]
    rewards: Float[Tensor, " batch"] | None
    distance: Float[Tensor, " batch"] | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


def sampled_size(sampling: SamplingConfig, own: ImageSize) -> ImageSize | None:
    """The size that a config asks for; None where it leaves all of it to the generator.

    Args:
        sampling: Height and width, or neither; frames, or none.
        own: Of the generator, for what is left out.
    """
    height, width, frames = sampling.height, sampling.width, sampling.frames
    if height is None and width is None and frames is None:
        return None
    return ImageSize(
        own.height if height is None else height,
        own.width if width is None else width,
        own.frames if frames is None else frames,
    )


@dataclass
class Workbench:
    """Shared by the method, its regulariser and the evaluations of a run.

    Attributes:
        config: Of the run.
        policy: What is tuned.
        reward: What it is tuned towards.
        draws: Prompts and noise of every batch.
        references: Looks reference images up; replaced when they are made anew.
        pull: Factor on all weights that hold the policy near its reference; the guard may raise it.
    """

    config: AlignConfig
    policy: Policy
    reward: RewardSignal
    draws: PromptDraws
    references: ReferenceLookup
    pull: float = 1.0

    def for_evaluation(self) -> "Workbench":
        """The same policy and reward, with the sampling of evaluations."""
        return replace(self, config=self.config.for_evaluation)

    @property
    def size(self) -> ImageSize | None:
        """Of the pictures or clips; None for the generator's own."""
        return sampled_size(self.config.sampling, self.policy.generator.default_size)

    @property
    def guidance(self) -> float | None:
        """None for the generator's own."""
        return self.config.sampling.guidance

    @cached_property
    def sigmas(self) -> Float[Tensor, " steps_and_end"]:
        """Noise levels from noise to picture."""
        return noise_levels(self.policy.generator, self.config.sampling.denoising_steps, self.size)

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        """What the prompts tell the generator."""
        with self.policy.precision():
            return self.policy.generator.encode(prompts, self.size)

    def noise(self, seeds: Sequence[int]) -> Float[Tensor, " batch *latent"]:
        """Latents to begin with."""
        return self.policy.generator.initial_noise(seeds, self.size)

    def denoised(
        self, latents: Float[Tensor, " batch *latent"], conditions: Conditions, stop: int | None = None
    ) -> Float[Tensor, " batch *latent"]:
        """Latents after the steps before `stop`, all of them for None; without gradient."""
        with self.policy.precision():
            return sample(self.policy.generator, conditions, latents, self.sigmas, self.guidance, stop=stop)

    def pictures(self, latents: Float[Tensor, " batch *latent"]) -> Float[Tensor, "batch *frames 3 height width"]:
        """Decoded latents, differentiable."""
        with self.policy.precision():
            return self.policy.generator.decode(latents, self.size)

    def climb(self, pixels: Tensor, prompts: Sequence[str], optimizer_step: int, micro_batch: int) -> RewardValues:
        """Rewards with gradient down to the pixels of one micro-batch, augmented as the config says."""
        pixels = augmented(pixels, self.config.augmentation, self.config.seed, optimizer_step, micro_batch)
        return self.reward.log_odds(pixels, prompts, self.references(prompts), optimizer_step=optimizer_step)

    def judge(self, latents: Tensor, prompts: Sequence[str], optimizer_step: int) -> RewardValues:
        """Rewards of any kind, without gradient, of what the latents show; not let into the running statistics."""
        with torch.no_grad():
            pixels = self.pictures(latents)
        references = self.references(prompts)
        return self.reward.judge(pixels, prompts, references, optimizer_step=optimizer_step, is_training=False)
