"""Reference images that rewards are judged against: reading them, and one reward from several of them.

Source:
    RewardDance, arXiv:2509.08826, section 3.3: the best two of sixteen candidates are the references.
    Differs: the paper does not say how two references make one reward; the mean log-odds is the default here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rewarddance.core.choices import require_choice
from rewarddance.core.errors import UsageError
from rewarddance.core.media import MediaSource, load_image, refuse_other_sources
from rewarddance.core.seeding import numpy_rng
from rewarddance.core.types import Media

Combine = Literal["mean", "random", "soft_min", "together"]
"""Mean log-odds against all references; against one picked at random; a smooth minimum over all; or the log-odds of one
question that shows all of them, for a model that has learned that."""

ReferenceImage = Tensor | MediaSource
"""Pixels (3, height, width) in [0, 1], an image, its file's bytes, or where it lies."""

_IMAGES_KEPT = 512


@dataclass(frozen=True, slots=True)
class ReferenceUse:
    """How several reference images of a prompt make one reward.

    Attributes:
        combine: See `Combine`.
        temperature: Of `soft_min`, in log-odds: near 0 the least counts alone, far above the spread the mean returns.
    """

    combine: Combine = "mean"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_choice("way to combine named", self.combine, get_args(Combine))
        if not 0 < self.temperature < math.inf:
            raise UsageError("the temperature of a soft minimum is above 0")


def combine_references(log_odds: Float[Tensor, " references"], use: ReferenceUse) -> Float[Tensor, ""]:
    r"""One reward of a sample from its rewards against each reference.

    The soft minimum is $-T \log \frac1n \sum_i e^{-r_i / T}$: equal rewards stay what they are.

    Args:
        log_odds: At least one; with `random`, exactly the one that was picked.
        use: How.
    """
    if use.combine == "soft_min":
        temperature = use.temperature
        return -temperature * ((-log_odds / temperature).logsumexp(0) - math.log(len(log_odds)))
    return log_odds.mean()


def picked(prompt: str, count: int, use: ReferenceUse, seed: int, optimizer_step: int) -> range:
    """Which of a prompt's references are asked about.

    With `random`, samples of one prompt get the same one within an optimizer step, however the batch is cut: what a
    group is compared by must not differ within it.
    """
    if use.combine != "random":
        return range(count)
    one = int(numpy_rng(seed, "reference", optimizer_step, prompt).integers(count))
    return range(one, one + 1)


def reference_pixels(image: ReferenceImage) -> Float[Tensor, "channels height width"]:
    """A reference image as pixels in [0, 1]; a file is decoded once.

    Raises:
        MediaError: A file that cannot be decoded.
        UsageError: It is no image in any form.
    """
    match image:
        case Tensor():
            return image
        case Image.Image() | bytes():
            return _pixels(image)
        case Media():
            return _file_pixels(image.path, image.path.stat().st_mtime_ns if image.path.is_file() else 0)
        case _:
            refuse_other_sources(image)
            path = Path(image)
            return _file_pixels(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(_IMAGES_KEPT)
def _file_pixels(path: Path, modified: int) -> Tensor:
    return _pixels(path)


def _pixels(image: MediaSource) -> Tensor:
    channels = np.asarray(load_image(image)).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(channels)).float() / 255


def pixels_together(images: Sequence[ReferenceImage], prompt: str) -> Float[Tensor, "references channels height width"]:
    """All reference images of a prompt, to be shown in one question.

    Raises:
        MediaError: A file that cannot be decoded.
        UsageError: Their sizes differ.
    """
    pixels = [reference_pixels(image) for image in images]
    if len({one.shape for one in pixels}) > 1:
        raise UsageError(
            f"the reference images of {prompt!r} differ in size and cannot be shown together; use the mean"
        )
    return torch.stack(pixels)


def required_references(
    prompts: Sequence[str], references: Sequence[Sequence[ReferenceImage]] | None, name: str
) -> Sequence[Sequence[ReferenceImage]]:
    """The references of every prompt.

    Raises:
        UsageError: There are none, none for one of the prompts, or one where a list of them is due.
    """
    if references is None or len(references) != len(prompts):
        found = "none" if references is None else f"those of {len(references)}"
        raise UsageError(f"reward {name!r} judges against reference images of {len(prompts)} prompts; got {found}")
    for prompt, own in zip(prompts, references, strict=True):
        if isinstance(own, Tensor | MediaSource):
            raise UsageError(f"the prompt {prompt!r} has one reference image as it is; give a list of them, if of one")
        if not own:
            raise UsageError(f"there is no reference image for the prompt {prompt!r}; leave it out or make one")
    return references
