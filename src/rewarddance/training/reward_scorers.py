"""The kinds of reward that a policy can be trained on, behind one protocol: a reward model or any function."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rewarddance.core.errors import RewardError, UsageError
from rewarddance.core.types import Judgement, JudgementRequest, Status
from rewarddance.rewards.chat_replies import FailureKind
from rewarddance.rewards.checkpointed_layers import checkpoint_layers
from rewarddance.rewards.protocol import ReferenceMode, RewardModel

Picture = Float[Tensor, "channels _ _"]
"""One image, float RGB in [0, 1]."""

_IMAGE_AXES, _CLIP_AXES = 3, 5

Shown = Float[Tensor, "... channels _ _"]
"""What one sample is judged against: an image (a clip, for clips), or several that are shown together, with an axis of
their own."""

_UNLISTED = (
    "the service lists too few tokens to read a sure answer: raise service.top_log_probabilities where it allows that, "
    "or use one that lists the tokens that are named to it (vLLM, `rewarddance serve`; service.names_tokens)"
)

Scorer = Callable[[Tensor, Sequence[str]], Sequence[float]]
"""A black box: from pixels (batch, 3, height, width) in [0, 1] and prompts to one number a sample; higher is better.

Clips are (batch, frames, 3, height, width)."""


@runtime_checkable
class PixelReward(Protocol):
    """The part of a reward model that is asked here; see `RewardModel.reward`."""

    def reward(
        self,
        pixels: Float[Tensor, "batch *frames channels height width"],
        prompts: Sequence[str],
        reference_pixels: Float[Tensor, "batch *references channels height2 width2"] | None = None,
        instruction: str | Path | None = None,
        reference_mode: ReferenceMode | None = None,
    ) -> Float[Tensor, " batch"]:
        """Log-odds of each sample."""


@runtime_checkable
class ImageJudge(Protocol):
    """Answers requests, as `RewardModel.judge` does."""

    def __call__(
        self, requests: Sequence[JudgementRequest], *, reference_mode: ReferenceMode | None = None
    ) -> Sequence[Judgement]:
        """One judgement a request, in order."""


@runtime_checkable
class Reward(Protocol):
    """One of the things that the policy is rewarded for."""

    @property
    def name(self) -> str:
        """What logs and errors call it."""

    @property
    def weight(self) -> float:
        """Its share in the combined reward; negative for what is to be avoided."""

    @property
    def needs_references(self) -> bool:
        """Whether each sample is judged against a reference image."""

    @property
    def is_differentiable(self) -> bool:
        """Whether its gradient reaches the pixels."""

    @property
    def keeps_time(self) -> bool:
        """Whether it has deadlines and tries of its own; then it is asked once, and waited for."""

    def ask(
        self,
        pixels: Float[Tensor, "batch *frames channels height width"],
        prompts: Sequence[str],
        references: Sequence[Shown] | None,
    ) -> object:
        """One number a sample; may raise anything, and what it gives is checked by who asks."""


@dataclass(frozen=True, slots=True)
class ModelReward:
    """A reward model in log-odds, with gradient where gradient is asked for.

    Attributes:
        name: What logs and errors call it.
        model: The reward model, frozen.
        weight: Share in the combined reward.
        instruction: Name or file of criteria; None for the model's own.
        needs_references: Whether samples are judged against reference images; a pairwise model needs them, another
            would only have the reference's own quality subtracted.
        images_at_once: Samples that are judged together when no gradient is asked for, to bound memory; of clips, so
            many frames, and one clip at least.
    """

    name: str
    model: PixelReward
    weight: float = 1.0
    instruction: str | Path | None = None
    needs_references: bool = True
    images_at_once: int = 32

    @property
    def is_differentiable(self) -> bool:
        """Always."""
        return True

    @property
    def keeps_time(self) -> bool:
        """Never."""
        return False

    def ask(
        self,
        pixels: Float[Tensor, "batch *frames channels height width"],
        prompts: Sequence[str],
        references: Sequence[Shown] | None,
    ) -> Tensor:
        """Log-odds of each sample; reference images of one size are judged together."""
        at_once = len(prompts)
        if not (torch.is_grad_enabled() and pixels.requires_grad):
            at_once = max(1, self.images_at_once // (pixels.shape[1] if pixels.ndim == _CLIP_AXES else 1))
        answers: dict[int, Tensor] = {}
        for rows in _rows_by_size(len(prompts), references):
            for start in range(0, len(rows), at_once):
                some = rows[start : start + at_once]
                shown = None if references is None else torch.stack([references[row] for row in some]).to(pixels)
                # Not indexed when all are meant: the copy would be kept for the backward pass.
                candidates = pixels if len(some) == len(prompts) else pixels[some]
                asked = [prompts[row] for row in some]
                if shown is not None and shown.ndim > pixels.ndim:
                    values = self.model.reward(candidates, asked, shown, self.instruction, "together")
                else:
                    values = self.model.reward(candidates, asked, shown, self.instruction)
                if values.shape != (len(some),):
                    # The caller's check names it; a part that is too long must not pass for the whole.
                    return values if len(some) == len(prompts) else values.reshape(1, -1)
                answers |= zip(some, values, strict=True)
        return torch.stack([answers[row] for row in range(len(prompts))])


@dataclass(frozen=True, slots=True)
class ScorerReward:
    """Any function of pixels and prompts.

    Attributes:
        name: What logs and errors call it.
        scorer: The function; it gets the pixels without gradient.
        weight: Share in the combined reward.
    """

    name: str
    scorer: Scorer
    weight: float = 1.0

    @property
    def needs_references(self) -> bool:
        """Never."""
        return False

    @property
    def is_differentiable(self) -> bool:
        """Never."""
        return False

    @property
    def keeps_time(self) -> bool:
        """Never."""
        return False

    def ask(
        self,
        pixels: Float[Tensor, "batch *frames channels height width"],
        prompts: Sequence[str],
        references: Sequence[Shown] | None,
    ) -> object:
        """What the function says."""
        return self.scorer(pixels.detach(), list(prompts))


@dataclass(frozen=True, slots=True)
class JudgeReward:
    """A judge that is only asked about finished 8-bit images, such as one behind a service.

    Attributes:
        name: What logs and errors call it.
        judge: Answers requests with judgements, in order, as `RewardModel.judge` does.
        weight: Share in the combined reward.
        instruction: Name or file of criteria; None for the judge's own.
        needs_references: Whether samples are judged against reference images; several are shown in one question.
        keeps_time: Whether the judge has deadlines and tries of its own, as a client of a service has.
    """

    name: str
    judge: ImageJudge
    weight: float = 1.0
    instruction: str | Path | None = None
    needs_references: bool = True
    keeps_time: bool = False

    @property
    def is_differentiable(self) -> bool:
        """Never."""
        return False

    def ask(
        self,
        pixels: Float[Tensor, "batch *frames channels height width"],
        prompts: Sequence[str],
        references: Sequence[Shown] | None,
    ) -> Sequence[float]:
        """Log-odds of each sample.

        Raises:
            RewardError: A judgement has none; says why.
            UsageError: The samples are clips, and it is asked about images only.
        """
        if pixels.ndim == _CLIP_AXES:
            raise UsageError(
                f"reward {self.name!r} is asked about finished 8-bit images, and the generator makes clips; "
                "run the reward model here"
            )
        shown = [None] * len(prompts) if references is None else [_images(one) for one in references]
        requests = [
            JudgementRequest(prompt, image_from_pixels(sample), reference, self.instruction)
            for prompt, sample, reference in zip(prompts, pixels, shown, strict=True)
        ]
        together = any(isinstance(reference, tuple) for reference in shown)
        judged = self.judge(requests, reference_mode="together") if together else self.judge(requests)
        return [_reward_of(judgement) for judgement in judged]


def reward_from_model(
    model: RewardModel,
    name: str,
    weight: float = 1.0,
    instruction: str | Path | None = None,
    gradient_checkpointing: bool = False,
) -> ModelReward:
    """A reward model as a reward; only a pairwise one is shown reference images.

    Args:
        model: Frozen.
        name: What logs and errors call it.
        weight: Share in the combined reward.
        instruction: Name or file of criteria; None for the model's own.
        gradient_checkpointing: Compute the model's activations again in the backward pass.
    """
    if gradient_checkpointing:
        checkpoint_layers(model.module)
    return ModelReward(name, model, weight, instruction, needs_references=model.kind == "pairwise")


def image_from_pixels(pixels: Picture) -> Image.Image:
    """An 8-bit image, rounded to the nearest value.

    Raises:
        UsageError: A pixel is not a finite number.
    """
    if not bool(torch.isfinite(pixels).all()):
        raise UsageError("an image with pixels that are not finite cannot be shown")
    rounded = (pixels.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(rounded.permute(1, 2, 0).cpu().numpy())


def _images(shown: Shown) -> Image.Image | tuple[Image.Image, ...]:
    return image_from_pixels(shown) if shown.ndim == _IMAGE_AXES else tuple(image_from_pixels(one) for one in shown)


def _reward_of(judgement: Judgement) -> float:
    if judgement.reward is None:
        # Whoever judges has tried again already, where that could help.
        raise RewardError(f"a judgement is {judgement.status.value}: {judgement.message}{_remedy(judgement)}")
    return judgement.reward


def _remedy(judgement: Judgement) -> str:
    """What to do about an answer that a service did not list; for other failures, their own words do."""
    is_unlisted = (judgement.message or "").startswith(FailureKind.NO_ANSWER.value)
    return f"; {_UNLISTED}" if judgement.status is Status.FAILED and is_unlisted else ""


def _rows_by_size(count: int, references: Sequence[Shown] | None) -> list[list[int]]:
    if references is None:
        return [list(range(count))]
    rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, reference in enumerate(references):
        rows[tuple(reference.shape)].append(row)
    return list(rows.values())
