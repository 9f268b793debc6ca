"""The gold judge: true alignment and quality of a picture, read from its pixels alone.

It never sees the renderer's parameters, so it scores any 32 x 32 picture, a generated one included.
Things are found by colour direction from the ground (which blur, noise and low contrast leave in place),
named by the best-fitting stencil, and held against the prompt by the best assignment.
"""

from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from rewarddance.lab.prompts import COLOURS, SHAPES, Colour, LabPrompt, Shape
from rewarddance.lab.world import PALETTE, holds, stencil

ALIGNMENT_WEIGHT = 0.7
"""Share of alignment in the overall gold score; the rest is quality."""

_MINIMUM_AREA = 14  # pixels; smaller specks are noise or mixed edges
_PAD = 2  # pixels around a stencil that its blur may reach
_BLURS = (0.0, 0.8, 1.2)  # pixels
_MINIMUM_FIT = 0.62  # overlap with the best stencil below which a blob has no shape


@dataclass(frozen=True, slots=True)
class Seen:
    """A thing found in a picture: its shape (None for a blob that fits no shape), colour and centre (row, column)."""

    shape: Shape | None
    colour: Colour
    centre: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Gold:
    """True judgement of one picture, each part in [0, 1], higher is better.

    Attributes:
        alignment: How much of the prompt the picture shows, and nothing more.
        sharpness: 1 for antialiased edges, 0 for a blur of about one and a half pixels.
        cleanness: 1 without noise, 0 for strong noise.
        contrast: Strength of the colours against the ground, 1 as drawn.
    """

    alignment: float
    sharpness: float
    cleanness: float
    contrast: float

    @property
    def quality(self) -> float:
        """The worst of sharpness, cleanness and contrast counts most: their product."""
        return self.sharpness * self.cleanness * self.contrast

    @property
    def overall(self) -> float:
        """What preferences are drawn from."""
        return ALIGNMENT_WEIGHT * self.alignment + (1 - ALIGNMENT_WEIGHT) * self.quality


def judge_picture(pixels: Float[np.ndarray, "side side 3"], prompt: LabPrompt) -> Gold:
    """Score one picture, float RGB in [0, 1], for a prompt."""
    return judge_sight(pixels, look(pixels), prompt)


def judge_sight(
    pixels: Float[np.ndarray, "side side 3"], sight: tuple[list[Seen], float, float], prompt: LabPrompt
) -> Gold:
    """`judge_picture` for a picture that was looked at already; `sight` is what `look` gave."""
    seen, strength, sharpness = sight
    return Gold(
        alignment=alignment(seen, prompt),
        sharpness=sharpness,
        cleanness=_cleanness(pixels),
        contrast=float(np.clip(strength / 0.95, 0, 1)),
    )


def look(pixels: Float[np.ndarray, "side side 3"]) -> tuple[list[Seen], float, float]:
    """Find the things in a picture.

    Returns:
        What is seen, the strength of its colours (1 as drawn, 0 when nothing is seen), and the sharpness of its edges.
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(border, axis=0)
    smooth = ndimage.median_filter(pixels, size=(3, 3, 1), mode="nearest")
    offsets = np.array([PALETTE[colour] for colour in COLOURS]) - ground  # (colours, 3)
    nearest, cover = _cover(smooth - ground, offsets)
    strength = float(np.percentile(cover, 99))
    if strength < 0.12:
        return [], 0.0, 0.0
    seen, inner, edges = [], [], []
    _, fine_cover = _cover(pixels - ground, offsets)
    for index, colour in enumerate(COLOURS):
        labels, count = ndimage.label((nearest == index) & (cover > 0.45 * strength))
        for label in range(1, count + 1):
            mask = labels == label
            if mask.sum() < _MINIMUM_AREA:
                continue
            near = ndimage.binary_dilation(mask, iterations=2)
            shape, side = _fit(np.where(near, fine_cover, 0.0) / strength, mask)
            seen.append(Seen(shape, colour, _centre(mask)))
            inner.append(float(np.percentile(cover[mask], 90)))
            edges.append(_edge_energy(np.where(near, cover, 0.0) / inner[-1]) / _drawn_energy(shape or "square", side))
    if not seen:
        return [], 0.0, 0.0
    return seen, float(np.mean(inner)), float(np.clip((np.mean(edges) - 0.15) / 0.75, 0, 1))


def alignment(seen: list[Seen], prompt: LabPrompt) -> float:
    """Share of the prompt that is shown, in [0, 1], by the assignment of seen things that suits it best.

    Every thing asked for counts one: half for its shape, half for its colour, or all for its shape where no
    colour is asked. A relation counts one. Things beyond those asked for enlarge the denominator.
    """
    wanted = prompt.things
    slots: list[Seen | None] = [*seen, *[None] * max(0, len(wanted) - len(seen))]
    best = 0.0
    for assigned in set(permutations(range(len(slots)), len(wanted))) if len(slots) <= 6 else ():
        chosen = [slots[index] for index in assigned]
        credit = sum(credit_of(thing, colour, shape) for thing, (colour, shape) in zip(chosen, wanted, strict=True))
        if prompt.relation and chosen[0] and chosen[1]:
            full = min(credit_of(thing, *want) for thing, want in zip(chosen, wanted, strict=True))
            credit += full * holds(prompt.relation, chosen[0].centre, chosen[1].centre)
        best = max(best, credit)
    return best / (max(len(wanted), len(seen)) + (prompt.relation is not None))


def credit_of(thing: Seen | None, colour: Colour | None, shape: Shape) -> float:
    """How much of something asked for a seen thing is, in [0, 1]; 0 for nothing seen."""
    if thing is None:
        return 0.0
    if colour is None:
        return float(thing.shape == shape)
    return 0.5 * (thing.shape == shape) + 0.5 * (thing.colour == colour)


def _cover(
    difference: Float[np.ndarray, "side side 3"], offsets: Float[np.ndarray, "colours 3"]
) -> tuple[np.ndarray, Float[np.ndarray, "side side"]]:
    """Nearest palette colour of each pixel by direction from the ground, and how much of it covers the pixel."""
    along = difference @ offsets.T  # (side, side, colours)
    lengths = np.linalg.norm(offsets, axis=1)
    nearest = np.argmax(along / lengths, axis=-1)
    cover = np.take_along_axis(along / lengths**2, nearest[..., None], axis=-1)[..., 0]
    return nearest, cover


def _fit(cover: Float[np.ndarray, "side side"], mask: np.ndarray) -> tuple[Shape | None, int]:
    """Best-fitting stencil and its size, over position, size and blur near the mask's bounding box, by soft overlap."""
    rows, columns = np.nonzero(mask)
    size = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
    cover = np.pad(np.clip(cover, 0, 1), _PAD)
    best: tuple[Shape | None, int] = (None, size)
    fit = _MINIMUM_FIT
    for side in range(max(6, size - 1), size + 3):
        box = side + 2 * _PAD
        tops = np.arange(max(0, rows.min() - 1), min(len(mask) - side, rows.min() + 1) + 1)
        lefts = np.arange(max(0, columns.min() - 1), min(len(mask) - side, columns.min() + 1) + 1)
        windows = np.lib.stride_tricks.sliding_window_view(cover, (box, box))
        patches = windows[tops][:, lefts].reshape(-1, 1, box, box)  # (places, 1, box, box)
        bank = _stencil_bank(side)  # (stencils, box, box)
        shared = np.minimum(patches, bank).sum(axis=(2, 3))  # (places, stencils)
        overlap = shared / (cover.sum() + bank.sum(axis=(1, 2)) - shared)
        if overlap.size and overlap.max() > fit:
            stencil_index = int(overlap.max(axis=0).argmax())
            best, fit = (SHAPES[stencil_index // len(_BLURS)], side), float(overlap.max())
    return best


@cache
def _stencil_bank(side: int) -> Float[np.ndarray, "stencils box box"]:
    """Every shape at one size, at several blurs, padded."""
    return np.stack(
        [ndimage.gaussian_filter(np.pad(stencil(shape, side), _PAD), blur) for shape in SHAPES for blur in _BLURS]
    )


def _centre(mask: np.ndarray) -> tuple[float, float]:
    """Middle of the bounding box (row, column): a triangle's is where its square stands."""
    rows, columns = np.nonzero(mask)
    return (float(rows.min() + rows.max() + 1) / 2, float(columns.min() + columns.max() + 1) / 2)


def _edge_energy(cover: Float[np.ndarray, "side side"]) -> float:
    """Sum of squared differences between neighbours: falls as edges soften."""
    return float(np.square(np.diff(cover, axis=0)).sum() + np.square(np.diff(cover, axis=1)).sum())


@cache
def _drawn_energy(shape: Shape, side: int) -> float:
    """Edge energy of the shape as drawn, seen through the same median filter as the picture."""
    return _edge_energy(ndimage.median_filter(np.pad(stencil(shape, side), _PAD), size=3))


def _cleanness(pixels: Float[np.ndarray, "side side 3"]) -> float:
    """1 minus the residual of a median filter on flat ground, scaled so that noise of 0.13 scores 0."""
    residual = np.abs(pixels - ndimage.median_filter(pixels, size=(3, 3, 1), mode="nearest")).mean(axis=-1)
    noise = float(np.percentile(residual, 40))
    return float(np.clip(1 - noise / 0.085, 0, 1))
