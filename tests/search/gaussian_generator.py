"""A flow generator whose distribution is known, and judges whose mind is known; for tests of searches."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rewarddance.core.types import Judgement, JudgementRequest, Ranking, Status
from rewarddance.generators.protocol import Conditions, ImageSize

CONTRAST = 16.0
"""Latents per unit of pixel: +-8 standard deviations fit between black and white."""

_MEANS = {"bright": 1.0, "dark": -1.0}


class GaussianGenerator:
    """Implements `Generator` for independent normal latents of variance 1, by their exact velocity.

    The mean is 1 for a prompt with the word "bright", -1 with "dark", and 0 for others. Latents are pixels.
    """

    name = "gaussian"
    default_denoising_steps = 8
    default_guidance = 1.0

    def __init__(self, side: int = 4) -> None:
        self.default_size = ImageSize(side, side)
        self.velocities = 0
        self.decodes = 0

    @property
    def module(self) -> nn.Module:
        return nn.Identity()

    @property
    def frozen_modules(self) -> Mapping[str, nn.Module]:
        return {}

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def encode(self, prompts: Sequence[str], size: ImageSize | None = None) -> Conditions:
        means = [sum(_MEANS.get(word, 0.0) for word in prompt.split()) for prompt in prompts]
        return Conditions({"mean": torch.tensor(means)}, None, self.default_size)

    def initial_noise(self, seeds: Sequence[int], size: ImageSize | None = None) -> Tensor:
        shape = (3, self.default_size.height, self.default_size.width)
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def sigmas(self, denoising_steps: int, size: ImageSize | None = None) -> Tensor:
        return torch.linspace(1.0, 0.0, denoising_steps + 1)

    def velocity(self, latents: Tensor, sigma: Tensor, conditions: Conditions, guidance: float | None = None) -> Tensor:
        self.velocities += len(latents)
        level = sigma.reshape(-1, 1, 1, 1)
        mean = conditions.positive["mean"].reshape(-1, 1, 1, 1)
        # Of jointly normal x0 and noise, given latents (1 - sigma) x0 + sigma noise.
        surprise = (latents - (1 - level) * mean) / ((1 - level) ** 2 + level**2)
        return level * surprise - (mean + (1 - level) * surprise)

    def decode(self, latents: Tensor, size: ImageSize | None = None) -> Tensor:
        self.decodes += len(latents)
        return (0.5 + latents / CONTRAST).clamp(0, 1)

    def gradient_checkpointing(self, is_on: bool) -> None:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def brightness(picture: Any) -> float:
    """Mean latent of a picture, or of pixels in [0, 1]."""
    pixels = picture if isinstance(picture, Tensor) else np.asarray(picture) / 255
    return (float(pixels.mean()) - 0.5) * CONTRAST


class KnownJudge:
    """A stand-in for a reward model, with a mind that can be written down.

    Attributes:
        asked: Judgements so far.
    """

    def __init__(
        self,
        mind: Callable[[Image.Image], float] = brightness,
        fails: Callable[[JudgementRequest], bool] = lambda request: False,
        is_away: Callable[[JudgementRequest], bool] = lambda request: False,
    ) -> None:
        self.mind = mind
        self.fails = fails
        self.is_away = is_away
        self.asked = 0

    def judge(self, requests: Sequence[JudgementRequest]) -> list[Judgement]:
        self.asked += len(requests)
        return [self._judged(request) for request in requests]

    def rank(self, prompt: str, candidates: Sequence[Any], instruction: object = None) -> Ranking:
        results: list[list[float]] = [[] for _ in candidates]
        judgements = []
        for earlier, later in combinations(range(len(candidates)), 2):
            judgement = self.judge([JudgementRequest(prompt, candidates[later], candidates[earlier])])[0]
            judgements.append(judgement)
            if judgement.reward is not None:
                results[later].append(judgement.reward)
                results[earlier].append(-judgement.reward)
        wins = [float(sum(value > 0 for value in own)) if own else None for own in results]
        rewards = [float(np.mean(own)) if own else None for own in results]
        order = sorted(range(len(results)), key=lambda index: (wins[index] is None, -(wins[index] or 0.0)))
        return Ranking(tuple(order), tuple(wins), tuple(rewards), tuple(judgements))

    def _judged(self, request: JudgementRequest) -> Judgement:
        if self.is_away(request):
            return Judgement(Status.UNANSWERED, message="unreachable: the service cannot be reached")
        if self.fails(request):
            return Judgement(Status.NON_FINITE, message="the model answered with nan")
        against = 0.0 if request.reference_image is None else self.mind(request.reference_image)
        return Judgement(Status.OK, reward=self.mind(request.candidate) - against)
