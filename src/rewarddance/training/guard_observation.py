"""What the guard sees of a policy at one evaluation: figures per prompt, on prompts and noise that never change.

The pictures are measured once and thrown away; an observation holds a few numbers a prompt. It goes to JSON and comes
back exactly, so that recorded runs can be judged again with other thresholds (`guard.replay`).

Of a clip, judges see every frame. Statistics and features know pictures: they are taken of a few evenly spaced frames.
A statistic of a clip is the mean over them, and the distance of two clips the root mean square of the distances of
their frames at the same moments.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat, SupportsIndex, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from rewarddance.core.clips import frame_positions
from rewarddance.core.errors import RewardDanceError, RewardError, UsageError
from rewarddance.core.filmstrips import FRAMES_SHOWN
from rewarddance.metrics.diversity import colour_grid_features, within_prompt_distance
from rewarddance.metrics.image_statistics import image_statistics
from rewarddance.training.reward_attempts import in_one_line
from rewarddance.training.reward_signal import refuse_broken_pixels

Rewards: TypeAlias = Sequence[float] | Tensor | ndarray
"""One number a picture, in any library's form."""

HeldOutJudge = Callable[[Tensor, Sequence[str]], Rewards]
"""Pictures (batch, 3, height, width) in [0, 1] and their prompts to one reward a picture, higher is better.

Clips are (batch, frames, 3, height, width)."""

Features = Callable[[Tensor], Any]
"""Pictures, or single frames of clips, to frozen features (batch, width), as an array or a tensor."""


_PICTURE_AXES = 4
_NUMBERS = "fiub"
"""Kinds of numpy's types."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One evaluation of the policy on fixed prompts and fixed noise.

    Attributes:
        optimizer_step: How many updates the policy had.
        prompts: The prompts, each once; the rows of everything below.
        proxy: Reward (log-odds) of every picture by what the policy is tuned with.
        held_out: For each judge that the policy is not tuned with, the mean reward of each prompt.
        diversity: Mean distance between two pictures of a prompt; None with one picture a prompt.
        statistics: Image statistics by name, the mean of each prompt.
        distance: Distance to the reference policy, in the run's own unit; None when not measured.
    """

    optimizer_step: int
    prompts: tuple[str, ...]
    proxy: Float[ndarray, "prompts samples"]
    held_out: Mapping[str, Float[ndarray, " prompts"]]
    diversity: Float[ndarray, " prompts"] | None
    statistics: Mapping[str, Float[ndarray, " prompts"]]
    distance: float | None = None

    @property
    def spread(self) -> float | None:
        """Mean within-prompt standard deviation of the proxy; None with one picture a prompt."""
        return float(self.proxy.std(axis=1, ddof=1).mean()) if self.proxy.shape[1] > 1 else None

    @property
    def scores(self) -> Float[ndarray, "prompts samples"]:
        """The proxy as scores in [0, 1]."""
        return np.asarray(0.5 * (1 + np.tanh(self.proxy / 2)))

    def saturation(self, score: float) -> float:
        """Share of pictures whose score is at least this."""
        return float((self.scores >= score).mean())

    def to_json(self) -> dict[str, Any]:
        """Plain values that `json` writes; `from_json` gives back equal numbers."""
        return {
            "optimizer_step": self.optimizer_step,
            "prompts": list(self.prompts),
            "proxy": self.proxy.tolist(),
            "held_out": {name: values.tolist() for name, values in self.held_out.items()},
            "diversity": None if self.diversity is None else self.diversity.tolist(),
            "statistics": {name: values.tolist() for name, values in self.statistics.items()},
            "distance": self.distance,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Observation":
        """Read back what `to_json` gave."""
        diversity = stored["diversity"]
        return cls(
            optimizer_step=int(stored["optimizer_step"]),
            prompts=tuple(stored["prompts"]),
            proxy=np.array(stored["proxy"], dtype=float),
            held_out={name: np.array(values, dtype=float) for name, values in stored["held_out"].items()},
            diversity=None if diversity is None else np.array(diversity, dtype=float),
            statistics={name: np.array(values, dtype=float) for name, values in stored["statistics"].items()},
            distance=stored["distance"],
        )


def observe(
    optimizer_step: SupportsIndex,
    pixels: Float[Tensor, "pictures *frames 3 height width"],
    prompts: Sequence[str],
    proxy: Rewards,
    held_out_judges: Mapping[str, HeldOutJudge],
    features: Features | None = None,
    distance: SupportsFloat | None = None,
) -> Observation:
    """Measure the pictures of one evaluation.

    Args:
        optimizer_step: How many updates the policy had.
        pixels: Pictures or clips, RGB in [0, 1], from the same prompts and noise at every evaluation, in the same
            order.
        prompts: The prompt of each picture; as many pictures of each.
        proxy: Reward (log-odds) of each picture by what the policy is tuned with.
        held_out_judges: What else judges the pictures, by name; the policy is not tuned with them.
        features: Frozen vision features for diversity; None for a grid of colours and edges.
        distance: Distance to the reference policy, if it was measured.

    Raises:
        UsageError: The prompts do not fit the pictures, these are no RGB pictures in [0, 1], or step or distance is no
            number.
        NonFiniteError: Some pixel is not finite.
        RewardError: A judge raised, gave too few or too many rewards, or one that is not finite; or so did the
            features.
    """
    step, moved = _whole_number(optimizer_step), _finite_number(distance)
    texts, places = _places(prompts, len(pixels))
    refuse_broken_pixels(pixels, prompts, step)
    frames = _frames_looked_at(pixels.detach())
    moments = len(frames) // len(pixels)
    array = frames.float().cpu().numpy().astype(float)
    per_prompt = {
        name: values.reshape(-1, moments).mean(axis=1)[places].mean(axis=1)
        for name, values in image_statistics(array).items()
    }
    rewards = {
        name: _rewards(name, _asked(name, judge, pixels, prompts), len(pixels))
        for name, judge in held_out_judges.items()
    }
    diversity = None
    if places.shape[1] > 1:
        vectors = colour_grid_features(array) if features is None else _vectors(_asked("features", features, frames))
        if len(vectors) != len(frames):
            raise RewardError(f"features: gave {len(vectors)} rows for {len(frames)} pictures; one each is due.")
        vectors = vectors.reshape(len(pixels), -1) / math.sqrt(moments)
        rows = np.repeat(np.arange(len(texts)), places.shape[1])
        diversity = within_prompt_distance(vectors[places.ravel()], rows)
    return Observation(
        optimizer_step=step,
        prompts=texts,
        proxy=_rewards("the proxy", proxy, len(pixels))[places],
        held_out={name: values[places].mean(axis=1) for name, values in rewards.items()},
        diversity=diversity,
        statistics=per_prompt,
        distance=moved,
    )


def _frames_looked_at(pixels: Float[Tensor, "pictures *frames 3 height width"]) -> Float[Tensor, "some 3 height width"]:
    """Pictures as they are; of each clip, one after the other, a few evenly spaced frames."""
    if pixels.ndim == _PICTURE_AXES:
        return pixels
    return pixels[:, list(frame_positions(pixels.shape[1], FRAMES_SHOWN))].flatten(0, 1)


def _whole_number(step: SupportsIndex) -> int:
    """Of any library, as JSON has it."""
    try:
        return operator.index(step)
    except TypeError:
        raise UsageError(f"The guard counts optimizer steps, and {step!r} is no whole number. Give an int.") from None


def _finite_number(distance: SupportsFloat | None) -> float | None:
    try:
        number = None if distance is None else float(distance)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise UsageError(f"The distance to the reference policy is {distance!r}. Give one finite number, or None.")
    return number


def _asked(name: str, whom: Callable[..., object], *shown: object) -> object:
    """What a judge says, or features are; whatever a stranger's raises has its name on it."""
    try:
        return whom(*shown)
    except (RewardDanceError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise RewardError(f"{name}: raised {type(error).__name__}: {in_one_line(error)}. Mend it.") from error


def _places(prompts: Sequence[str], n_pictures: int) -> tuple[tuple[str, ...], Int[ndarray, "prompts samples"]]:
    """Each prompt once, in order of appearance, and which pictures are its own."""
    if len(prompts) != n_pictures or n_pictures == 0:
        raise UsageError(f"The guard got {n_pictures} pictures with {len(prompts)} prompts. Give one prompt a picture.")
    places: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(index)
    if len({len(indices) for indices in places.values()}) > 1:
        raise UsageError("The guard needs as many pictures of each prompt as of every other, each prompt once.")
    return tuple(places), np.array(list(places.values()))


def _rewards(name: str, rewards: object, n_pictures: int) -> Float[ndarray, " pictures"]:
    values = _as_array(name, rewards)
    if values.shape != (n_pictures,):
        raise RewardError(f"{name}: gave rewards of shape {values.shape} for {n_pictures} pictures; one each is due.")
    if not np.isfinite(values).all():
        n_bad = int((~np.isfinite(values)).sum())
        raise RewardError(f"{name}: {n_bad} of {n_pictures} rewards of an evaluation are not finite. Mend the reward.")
    return values


def _vectors(features: object) -> Float[ndarray, "pictures width"]:
    values = _as_array("features", features)
    if values.ndim != 2:
        raise RewardError(f"features: gave an array of shape {values.shape}; one row of numbers a picture is due.")
    if not np.isfinite(values).all():
        raise RewardError("features: gave numbers that are not finite. Mend them.")
    return values


def _as_array(name: str, values: object) -> ndarray:
    """Numbers from tensors, arrays, or sequences of either; a text that looks like a number is none."""
    try:
        if not isinstance(values, Tensor | ndarray):
            values = [_off_the_graph(one) for one in values]  # type: ignore[attr-defined]  # or it raises
        array = np.asarray(_off_the_graph(values))
    except (TypeError, ValueError):
        raise RewardError(f"{name}: gave {type(values).__name__}, not one number a picture. Mend it.") from None
    if array.dtype.kind not in _NUMBERS:
        raise RewardError(f"{name}: gave values of type {array.dtype}, which are no numbers. Mend it.")
    return array.astype(float)


def _off_the_graph(value: object) -> object:
    return value.detach().double().cpu().numpy() if isinstance(value, Tensor) else value
