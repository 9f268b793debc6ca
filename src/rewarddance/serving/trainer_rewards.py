"""A served reward model as the reward of other people's trainers.

Three shapes are common. flow_grpo and its forks call `reward(images, prompts, metadata) -> (scores, {})`; verl-omni
awaits `compute_score(data_source, solution_image, ground_truth, extra_info) -> {"score": ...}`; UniRL calls
`compute_rewards(request)` and reads `rewards`, `successes` and `errors`.

A judgement that failed is raised in all three: a zero in its place would be an opinion that nobody has.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from rewarddance.core.errors import RewardError, UsageError
from rewarddance.core.media import MediaSource, load_image
from rewarddance.core.pixel_range import DARKEST, range_flaw
from rewarddance.core.types import Judgement, JudgementRequest

_CHANNELS = (1, 3)


@runtime_checkable
class Judge(Protocol):
    """Answers requests: a `ScoringClient`, or a reward model in this process."""

    def judge(self, requests: Sequence[JudgementRequest]) -> list[Judgement]:
        """One judgement a request, in order."""


@dataclass(frozen=True, slots=True)
class UniRLResponse:
    """What UniRL reads of a reward; its `RewardResponse` by field names."""

    rewards: list[float]
    component_rewards: dict[str, list[float]]
    successes: list[bool]
    errors: list[str | None]
    compute_time: float


@dataclass(frozen=True, slots=True)
class TrainerReward:
    """A reward for trainers, in log-odds.

    Attributes:
        judge: What answers.
        references: Reference images by prompt, for a pairwise model; `metadata[i]["reference_image"]` comes first.
        instruction: Name of stored criteria; None for the model's own.
        name: What UniRL's logs call it.
    """

    judge: Judge
    references: Mapping[str, MediaSource | tuple[MediaSource, ...]] = field(default_factory=dict)
    instruction: str | None = None
    name: str = "rewarddance"

    def __call__(
        self, images: Any, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple["np.ndarray[Any, np.dtype[np.float64]]", dict[str, Any]]:
        """Rewards in the shape of flow_grpo.

        Args:
            images: A tensor (batch, channels, height, width) in [0, 1], an array (batch, height, width, channels) of
                bytes, or PIL images.
            prompts: One an image.
            metadata: One an image, if any.

        Raises:
            RewardError: One of them could not be judged.
            UsageError: Counts differ, or what was given is no image.
        """
        return np.array(self._rewards(pictures(images), prompts, metadata)), {}

    async def compute_score(
        self,
        data_source: str,
        solution_image: Any,
        ground_truth: str,
        extra_info: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> dict[str, float]:
        """The reward of one image in the shape of verl-omni; raises as `__call__` does.

        Args:
            data_source: Ignored.
            solution_image: A PIL image, or a tensor or array with its channels first or last.
            ground_truth: The prompt, unless `extra_info["prompt"]` has it.
            extra_info: May hold `prompt` and `reference_image`.
        """
        known = extra_info or {}
        prompt = str(known.get("prompt") or ground_truth)
        shown = pictures([solution_image] if isinstance(solution_image, Image.Image) else solution_image)
        reward = (await asyncio.to_thread(self._rewards, shown, [prompt], [known]))[0]
        return {"score": reward}

    def compute_rewards(self, request: Any) -> UniRLResponse:
        """Rewards of UniRL's request, of which `images`, `prompts` and `metadata` are read; raises as `__call__`."""
        start = time.monotonic()
        rewards = self._rewards(pictures(request.images), request.prompts, getattr(request, "metadata", None))
        count = len(rewards)
        return UniRLResponse(
            rewards, {self.name: list(rewards)}, [True] * count, [None] * count, time.monotonic() - start
        )

    def _rewards(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any] | None] | None,
    ) -> list[float]:
        if len(images) != len(prompts) or (metadata is not None and len(metadata) != len(images)):
            raise UsageError(f"{len(images)} images, {len(prompts)} prompts: give one prompt and one metadata an image")
        facts = metadata if metadata is not None else [None] * len(images)
        requests = [
            JudgementRequest(prompt, image, self._reference(prompt, fact), self.instruction)
            for image, prompt, fact in zip(images, prompts, facts, strict=True)
        ]
        judgements = self.judge.judge(requests)
        rewards = [judgement.reward for judgement in judgements if judgement.reward is not None]
        if len(rewards) != len(requests):
            failed = [judgement for judgement in judgements if judgement.reward is None]
            reason = f": {failed[0].message}" if failed else ""
            raise RewardError(f"{len(requests) - len(rewards)} of {len(requests)} images got no reward{reason}")
        return rewards

    def _reference(self, prompt: str, fact: Mapping[str, Any] | None) -> MediaSource | tuple[MediaSource, ...] | None:
        given = None if fact is None else fact.get("reference_image")
        return self.references.get(prompt) if given is None else given


def pictures(images: Any) -> list[Image.Image]:
    """Images of a trainer as PIL images.

    Args:
        images: PIL images; or a tensor or array, one image or a batch, channels first or last, bytes or [0, 1].

    Raises:
        UsageError: None of these; a clip, say.
        MediaError: A PIL image that cannot be decoded.
    """
    if isinstance(images, list | tuple) and all(isinstance(image, Image.Image) for image in images):
        return [load_image(image) for image in images]
    if isinstance(images, list | tuple):
        return [picture for image in images for picture in pictures(image)]
    # A tensor of torch is known by what it can do: this module runs where torch is not installed.
    values = np.asarray(images.detach().float().cpu().numpy() if hasattr(images, "detach") else images)
    kind = str(getattr(images, "dtype", values.dtype)).removeprefix("torch.")
    is_bytes = kind == "uint8"
    if not (is_bytes or "float" in kind):
        raise UsageError(f"images of {kind} may mean anything; give bytes (uint8), or floats in [0, 1]")
    batch = values[None] if values.ndim == 3 else values
    if batch.ndim != 4 or not (batch.shape[1] in _CHANNELS or batch.shape[-1] in _CHANNELS):
        raise UsageError(f"images of shape {values.shape} are neither (batch, 3, H, W) nor (batch, H, W, 3)")
    if batch.shape[-1] not in _CHANNELS:
        batch = batch.transpose(0, 2, 3, 1)
    if not np.isfinite(batch).all():
        raise UsageError("an image holds numbers that are not finite")
    if not is_bytes and batch.size:
        flaw = range_flaw(float((batch < DARKEST).mean()), float(batch.max()))
        if flaw is not None:
            raise UsageError(flaw)
    levels = batch if is_bytes else (batch * 255).round()
    whole = levels.clip(0, 255).astype(np.uint8)
    return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB") for image in whole]
