"""What holds a policy near the generator that it came from: its velocities, and pictures that are not its own.

Source:
    The pre-training term is ReFL's, arXiv:2304.05977, Algorithm 1, which the released code leaves out.
    Differs: without a data set, the reference policy makes the pictures. Reference images, best of N, may be the data
    set as well; the term then teaches what the reward model chose, as RAFT, arXiv:2304.06767, does alone. Noise levels
    are logit-normal, one a picture, as in arXiv:2403.03206, section 3.1. Pictures that the reference policy makes are
    made at the guidance at which the velocity is trained, for only then is it where this loss is least.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rewarddance.config.alignment import AlignConfig
from rewarddance.core.errors import DataError, UsageError
from rewarddance.core.seeding import derive_seed, numpy_rng
from rewarddance.core.whole_text import is_whole_text
from rewarddance.generators.prompt_limits import refused_prompts
from rewarddance.generators.protocol import Conditions, ImageSize
from rewarddance.generators.sampling import sample
from rewarddance.objectives.flow import add_noise, flow_matching_loss
from rewarddance.objectives.kl import velocity_distance
from rewarddance.training.reward_references import ReferenceImage, reference_pixels
from rewarddance.training.workbench import LossPart, Workbench


@runtime_checkable
class PictureEncoder(Protocol):
    """A generator that can also turn pictures into latents."""

    def latents_of(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch ..."]:
        """Clean latents of pictures in [0, 1]; the reverse of `decode`."""


@dataclass(frozen=True, slots=True)
class Pull:
    """How far the policy's velocity is from the reference policy's, and what that costs.

    Attributes:
        distance: Mean square over latents, one a row, without gradient; None when nobody asked for it.
        loss: Weighted mean, with gradient; 0 without a weight.
    """

    distance: Float[Tensor, " batch"] | None
    loss: Float[Tensor, ""]


def velocity_pull(
    bench: Workbench,
    velocity: Float[Tensor, " batch *latent"],
    latents: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, ""],
    conditions: Conditions,
) -> Pull:
    """The config's pull on one velocity; costs a pass of the reference policy where it has a weight.

    Args:
        bench: Policy, weights and guidance.
        velocity: Of the policy, with gradient.
        latents: Where.
        sigma: Their noise level.
        conditions: Their prompts.
    """
    weight = bench.config.regulariser.velocity_weight * bench.pull
    if not weight:
        return Pull(None, velocity.new_zeros(()))
    home = bench.policy.reference_velocity(latents, sigma, conditions, bench.guidance)
    distance = velocity_distance(velocity, home)
    return Pull(distance.detach(), weight * distance.mean())


class Pretraining:
    """The flow-matching loss beside the method's own."""

    def __init__(self, bench: Workbench) -> None:
        """Find the pictures.

        Raises:
            UsageError: There are pictures, and the generator has no encoder for them; or reference images are to be the
                pictures, and the run has none.
            DataError: The list of pictures cannot be used.
        """
        self._bench = bench
        self._learned: tuple[LearnedPicture, ...] = ()
        data = bench.config.regulariser.pretraining_data
        if data is None:
            return
        if not isinstance(bench.policy.generator, PictureEncoder):
            name = bench.policy.generator.name
            raise UsageError(
                f"regulariser.pretraining_data: generators of the family {name} cannot read pictures here; "
                "leave it out, and the reference policy makes the pictures"
            )
        if isinstance(data, Path):
            self._learned = pretraining_pictures(bench.config)
        elif bench.references(bench.draws.prompts[:1]) is None:
            raise UsageError(
                "regulariser.pretraining_data is `references`, and the rewards of this run are judged against none; "
                "give JSON lines, or leave it out"
            )

    def parts(self, optimizer_step: int) -> Iterator[LossPart]:
        """One piece of loss for each micro-batch of an optimizer step; none without a weight, or when it is over."""
        config = self._bench.config
        weight, steps = config.regulariser.pretraining_weight, config.regulariser.pretraining_steps
        if config.regulariser.pretraining_data is None:
            # Only pictures of the reference policy's own draw towards it, so only they are drawn to harder.
            weight *= self._bench.pull
        is_over = steps is not None and optimizer_step >= steps
        for number in range(config.gradient_accumulation if weight and not is_over else 0):
            loss, prompts = self._loss(optimizer_step, number)
            mean = loss.mean()
            figures = {"pretraining_loss": float(mean.detach())}
            yield LossPart(weight / config.gradient_accumulation * mean, prompts, None, figures=figures)

    def _loss(self, optimizer_step: int, number: int) -> tuple[Float[Tensor, " batch"], tuple[str, ...]]:
        bench = self._bench
        prompts, clean = self._pictures(optimizer_step, number)
        conditions = bench.conditions(prompts)
        rng = torch.Generator().manual_seed(derive_seed(bench.config.seed, "pretraining", optimizer_step, number))
        noise = torch.randn(clean.shape, generator=rng).to(clean)
        sigma = torch.sigmoid(torch.randn(len(clean), generator=rng)).to(clean.device)
        velocity = bench.policy.velocity(add_noise(clean, noise, sigma), sigma, conditions, self._guidance(conditions))
        return flow_matching_loss(velocity, clean, noise), prompts

    @torch.no_grad()
    def _pictures(self, optimizer_step: int, number: int) -> tuple[tuple[str, ...], Float[Tensor, " batch *latent"]]:
        """Prompts and clean latents of a micro-batch."""
        bench, config = self._bench, self._bench.config
        rng = numpy_rng(config.seed, "pretraining", optimizer_step, number)
        if self._learned:
            chosen = [self._learned[place] for place in rng.integers(len(self._learned), size=config.batch_size)]
            return tuple(one.prompt for one in chosen), self._latents([one.image for one in chosen])
        (draw,) = bench.draws.draws(optimizer_step * config.gradient_accumulation + number, 1)
        if config.regulariser.pretraining_data == "references":
            # Looked up each time: the run may have had them made anew.
            found = bench.references(draw.prompts) or ()
            return draw.prompts, self._latents([images[int(rng.integers(len(images)))] for images in found])
        noise = bench.noise([derive_seed(seed, "pretraining") for seed in draw.seeds])
        conditions, generator = bench.conditions(draw.prompts), bench.policy.generator
        with bench.policy.reference(), bench.policy.precision():
            made = sample(generator, conditions, noise, bench.sigmas, self._guidance(conditions))
        return draw.prompts, made

    def _guidance(self, conditions: Conditions) -> float | None:
        """1, as in pre-training, for guidance by the empty prompt; a network that is told its guidance has the run's.

        A policy that learned from guided pictures would be guided a second time when it is sampled.
        """
        return self._bench.guidance if conditions.negative is None else _PLAIN

    def _latents(self, images: Sequence[ReferenceImage]) -> Float[Tensor, " batch *latent"]:
        encoder = self._bench.policy.generator
        assert isinstance(encoder, PictureEncoder)
        size = self._bench.size or encoder.default_size
        pixels = torch.stack([_covering(reference_pixels(image), size) for image in images])
        with self._bench.policy.precision():
            return encoder.latents_of(pixels.to(self._bench.policy.device)).float()


_PLAIN = 1.0


@dataclass(frozen=True, slots=True)
class LearnedPicture:
    """A picture that the policy learns beside the reward.

    Attributes:
        prompt: What it shows.
        image: Its file.
        line: Where it stands in its list, from 1.
    """

    prompt: str
    image: Path
    line: int


def pretraining_pictures(config: AlignConfig) -> tuple[LearnedPicture, ...]:
    """The list that the config names; none where it names no list.

    Raises:
        DataError: It cannot be read, a picture is missing, or the generator cannot read a prompt.
    """
    path = config.regulariser.pretraining_data
    if not isinstance(path, Path):
        return ()
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = [(number, json.loads(line)) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not JSON lines ({error}); give `prompt` and `image` on each line") from error
    if not rows:
        raise DataError(f"{path}: holds no pictures")
    pictures = tuple(_learned_picture(path, number, row) for number, row in rows)
    refused = refused_prompts(config.generator.path, (picture.prompt for picture in pictures))
    for picture in pictures:
        if picture.prompt in refused:
            raise DataError(f"{path}: line {picture.line}: {refused[picture.prompt]}")
    return pictures


def _learned_picture(path: Path, line: int, row: object) -> LearnedPicture:
    if not (isinstance(row, Mapping) and isinstance(row.get("prompt"), str) and isinstance(row.get("image"), str)):
        raise DataError(f"{path}: line {line} has no `prompt` and `image`; give both as text")
    if not is_whole_text(row["prompt"] + row["image"]):
        raise DataError(f"{path}: line {line} holds half a character (an unpaired surrogate); correct it")
    image = path.parent / row["image"]
    if not image.is_file():
        raise DataError(f"{path}: line {line} names {image}, and there is no such file")
    return LearnedPicture(row["prompt"], image, line)


def _covering(pixels: Float[Tensor, "3 height width"], size: ImageSize) -> Float[Tensor, "3 new_height new_width"]:
    """A picture, enlarged or reduced to cover the size and cut at its edges."""
    height, width = pixels.shape[1:]
    factor = max(size.height / height, size.width / width)
    covering = (max(size.height, round(height * factor)), max(size.width, round(width * factor)))
    scaled = F.interpolate(pixels[None], covering, mode="bilinear", antialias=True)[0].clamp(0, 1)
    top, left = (covering[0] - size.height) // 2, (covering[1] - size.width) // 2
    return scaled[:, top : top + size.height, left : left + size.width]
