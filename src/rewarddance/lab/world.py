"""The drawn world: scenes of coloured shapes, their rendering, and controlled faults.

A picture is 32 x 32 RGB. Up to four things stand in the four quadrants of a light ground, at least three
pixels apart, so that what a picture shows can be read back from its pixels (`gold.py`).
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from rewarddance.lab.prompts import COLOURS, HELD_OUT_COMBINATIONS, SHAPES, Colour, LabPrompt, Relation, Shape

SIDE = 32
CELL = 16
SIZES = (9, 12)  # smallest and one past the largest side of a thing, in pixels
PALETTE: dict[Colour, tuple[float, float, float]] = {
    "red": (0.86, 0.16, 0.16),
    "green": (0.13, 0.62, 0.24),
    "blue": (0.16, 0.30, 0.86),
    "yellow": (0.95, 0.80, 0.10),
    "purple": (0.56, 0.20, 0.70),
    "cyan": (0.10, 0.75, 0.82),
}
SEEN_FAULTS = ("blur", "noise", "low_contrast")
UNSEEN_FAULTS = ("motion_blur", "stripes", "colour_cast")

Pixels = Float[np.ndarray, "32 32 3"]


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape: its bounding square has its top-left corner at (`top`, `left`) and `size` pixels a side."""

    shape: Shape
    colour: Colour
    top: int
    left: int
    size: int

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column of the middle, in pixels."""
        return self.top + self.size / 2, self.left + self.size / 2


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows, before any fault of quality.

    Attributes:
        things: The shapes, none overlapping.
        ground: Grey level of the background in [0, 1].
    """

    things: tuple[Thing, ...]
    ground: float = 0.93


@dataclass(frozen=True, slots=True)
class Degradation:
    """A fault of quality: its name and its severity in [0, 1]."""

    name: str
    severity: float


def holds(relation: Relation, first: tuple[float, float], second: tuple[float, float], margin: float = 3.0) -> bool:
    """Whether a relation holds between two centres (row, column), by at least `margin` pixels."""
    rows, columns = second[0] - first[0], second[1] - first[1]
    return {"left of": columns, "right of": -columns, "above": rows, "below": -rows}[relation] >= margin


def sample_scene(prompt: LabPrompt, rng: np.random.Generator, *, avoid_held_out: bool = True) -> Scene:
    """Draw a scene that shows exactly what the prompt asks for.

    Args:
        prompt: What to show.
        rng: Source of randomness.
        avoid_held_out: Never choose a held-out combination where the prompt leaves the colour open.
    """
    wanted = [(colour or _free_colour(shape, rng, avoid_held_out), shape) for colour, shape in prompt.things]
    while True:
        scene = place(wanted, rng)
        if prompt.relation is None or holds(prompt.relation, scene.things[0].centre, scene.things[1].centre):
            return scene


def place(wanted: list[tuple[Colour, Shape]], rng: np.random.Generator) -> Scene:
    """Put up to four things into quadrants of their own (a single one anywhere)."""
    cells = rng.permutation(4)
    things = []
    for (colour, shape), cell in zip(wanted, cells, strict=False):
        size = int(rng.integers(*SIZES))
        if len(wanted) == 1:
            top, left = (int(value) for value in rng.integers(1, SIDE - size, size=2))
        else:
            row, column = divmod(int(cell), 2)
            top = row * CELL + int(rng.integers(1, CELL - size - 1))
            left = column * CELL + int(rng.integers(1, CELL - size - 1))
        things.append(Thing(shape, colour, top, left, size))
    return Scene(tuple(things), ground=float(rng.uniform(0.88, 0.97)))


def spoil(
    prompt: LabPrompt, scene: Scene, fault: str, rng: np.random.Generator, *, avoid_held_out: bool = True
) -> Scene:
    """Make the scene disagree with its prompt.

    Args:
        prompt: What was asked for.
        scene: What shows it.
        fault: `wrong_colour`, `wrong_shape`, `missing`, `extra` or `wrong_relation`; one that the prompt cannot
            have becomes `wrong_shape`.
        rng: Source of randomness.
        avoid_held_out: Make no held-out combination.
    """
    things = list(scene.things)
    index = int(rng.integers(len(things))) if things else 0
    if fault == "wrong_relation" and prompt.relation is not None and len(things) == 2:
        first, second = things
        return replace(
            scene,
            things=(
                replace(first, shape=second.shape, colour=second.colour),
                replace(second, shape=first.shape, colour=first.colour),
            ),
        )
    if fault == "extra" and len(things) < 4:
        more = [(thing.colour, thing.shape) for thing in things]
        shape = things[0].shape if prompt.kind == "counting" else SHAPES[rng.integers(len(SHAPES))]
        more.append((_free_colour(shape, rng, avoid_held_out), shape))
        return _replaced(prompt, more, rng)
    if fault == "missing" and len(things) > 1:
        return replace(scene, things=tuple(things[:index] + things[index + 1 :]))
    old = things[index]
    if fault == "wrong_colour" and any(phrase.colour for phrase in prompt.described):
        colours = [c for c in COLOURS if c != old.colour and not (avoid_held_out and _is_held_out(c, old.shape))]
        things[index] = replace(old, colour=colours[rng.integers(len(colours))])
    else:
        shapes = [s for s in SHAPES if s != old.shape and not (avoid_held_out and _is_held_out(old.colour, s))]
        things[index] = replace(old, shape=shapes[rng.integers(len(shapes))])
    return replace(scene, things=tuple(things))


def render(scene: Scene) -> Pixels:
    """Draw a scene; float RGB in [0, 1], edges antialiased."""
    pixels = np.full((SIDE, SIDE, 3), scene.ground)
    for thing in scene.things:
        alpha = stencil(thing.shape, thing.size)[..., None]
        box = np.s_[thing.top : thing.top + thing.size, thing.left : thing.left + thing.size]
        pixels[box] = (1 - alpha) * pixels[box] + alpha * np.array(PALETTE[thing.colour])
    return pixels


def degrade(pixels: Pixels, degradation: Degradation, rng: np.random.Generator) -> Pixels:
    """Apply one fault of quality.

    Raises:
        ValueError: The fault's name is unknown.
    """
    severity = degradation.severity
    match degradation.name:
        case "blur":
            sigma = 0.4 + 0.7 * severity
            spoiled = ndimage.gaussian_filter(pixels, sigma=(sigma, sigma, 0), mode="nearest")
        case "noise":
            spoiled = np.clip(pixels + rng.normal(0, 0.03 + 0.09 * severity, pixels.shape), 0, 1)
        case "low_contrast":
            ground = np.median(pixels.reshape(-1, 3), axis=0)
            spoiled = ground + (pixels - ground) * (0.85 - 0.5 * severity)
        case "motion_blur":
            spoiled = ndimage.gaussian_filter1d(pixels, sigma=0.6 + 1.0 * severity, axis=1, mode="nearest")
        case "stripes":
            rows = np.where(np.arange(SIDE) % 2, 1.0, -1.0)[:, None, None]
            spoiled = np.clip(pixels + (0.008 + 0.035 * severity) * rows, 0, 1)
        case "colour_cast":
            haze = np.array([0.75, 0.72, 0.65])
            spoiled = pixels + (0.15 + 0.5 * severity) * (haze - pixels)
        case _:
            raise ValueError(f"unknown fault {degradation.name!r}; known: {', '.join(SEEN_FAULTS + UNSEEN_FAULTS)}")
    return np.asarray(spoiled, dtype=float)


def to_uint8(pixels: Pixels) -> UInt8[np.ndarray, "32 32 3"]:
    """Round to 8 bits, as a file stores it."""
    return np.asarray(np.clip(pixels * 255 + 0.5, 0, 255), dtype=np.uint8)


@cache
def stencil(shape: Shape, size: int) -> Float[np.ndarray, "size size"]:
    """Coverage in [0, 1] of each pixel of the bounding square by the shape, from 8 x 8 sub-samples."""
    fine = (np.arange(size * 8) + 0.5) / (size * 8) * 2 - 1
    x, y = np.meshgrid(fine, fine)
    inside = {
        "circle": x**2 + y**2 <= 1,
        "square": (np.abs(x) <= 0.9) & (np.abs(y) <= 0.9),
        "triangle": np.abs(x) <= (y + 1) / 2,
        "cross": (np.abs(x) <= 0.4) | (np.abs(y) <= 0.4),
    }[shape]
    return np.asarray(inside.reshape(size, 8, size, 8).mean(axis=(1, 3)), dtype=float)


def _free_colour(shape: Shape, rng: np.random.Generator, avoid_held_out: bool) -> Colour:
    choices = [c for c in COLOURS if not (avoid_held_out and (c, shape) in HELD_OUT_COMBINATIONS)]
    return choices[rng.integers(len(choices))]


def _is_held_out(colour: Colour, shape: Shape) -> bool:
    return (colour, shape) in HELD_OUT_COMBINATIONS


def _replaced(prompt: LabPrompt, wanted: list[tuple[Colour, Shape]], rng: np.random.Generator) -> Scene:
    while True:
        scene = place(wanted, rng)
        if prompt.relation is None or holds(prompt.relation, scene.things[0].centre, scene.things[1].centre):
            return scene
