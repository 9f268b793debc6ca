"""Candidates for a prompt: scenes with controlled faults of alignment and quality, and what is true of them."""

from dataclasses import dataclass

import numpy as np

from rewarddance.lab.gold import Seen, alignment
from rewarddance.lab.prompts import LabPrompt
from rewarddance.lab.world import SEEN_FAULTS, Degradation, Pixels, Scene, degrade, render, sample_scene, spoil

ALIGNMENT_FAULTS = ("wrong_colour", "wrong_shape", "missing", "extra", "wrong_relation")


@dataclass(frozen=True, slots=True)
class LabCandidate:
    """A picture of the world with its truth.

    Attributes:
        scene: What it shows.
        degradations: Its faults of quality, in the order in which they were applied.
        alignment: Truth of the renderer in [0, 1], by the gold judge's own rule.
        pixels: The picture, float RGB in [0, 1].
    """

    scene: Scene
    degradations: tuple[Degradation, ...]
    alignment: float
    pixels: Pixels

    def severity(self, name: str) -> float:
        """Severity of one fault in [0, 1]; 0 when the picture does not have it."""
        return max((item.severity for item in self.degradations if item.name == name), default=0.0)


def draw_candidate(
    prompt: LabPrompt,
    rng: np.random.Generator,
    *,
    avoid_held_out: bool = True,
    faults: tuple[str, ...] = SEEN_FAULTS,
) -> LabCandidate:
    """Draw a picture for the prompt: right in two cases of five, else with one or two faults of alignment.

    Half of the pictures have one fault of quality, a fifth have two.
    """
    scene = sample_scene(prompt, rng, avoid_held_out=avoid_held_out)
    for _ in range(rng.choice(3, p=(0.4, 0.35, 0.25))):
        fault = ALIGNMENT_FAULTS[rng.integers(len(ALIGNMENT_FAULTS))]
        scene = spoil(prompt, scene, fault, rng, avoid_held_out=avoid_held_out)
    names = rng.permutation(faults)[: rng.choice(3, p=(0.3, 0.5, 0.2))]
    degradations = tuple(Degradation(str(name), float(rng.uniform(0, 1))) for name in names)
    pixels = render(scene)
    for degradation in degradations:
        pixels = degrade(pixels, degradation, rng)
    truth = alignment([Seen(thing.shape, thing.colour, thing.centre) for thing in scene.things], prompt)
    return LabCandidate(scene, degradations, truth, pixels)
