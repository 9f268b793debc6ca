import numpy as np
import pytest

from rewarddance.lab.candidates import ALIGNMENT_FAULTS
from rewarddance.lab.gold import Seen, alignment, judge_picture
from rewarddance.lab.prompts import Described, LabPrompt, sample_prompt
from rewarddance.lab.world import Degradation, degrade, render, sample_scene, spoil, to_uint8


def test_gold_agrees_with_the_renderer_on_clean_pictures() -> None:
    rng = np.random.default_rng(0)
    right = 0
    for number in range(300):
        prompt = sample_prompt(rng)
        scene = sample_scene(prompt, rng)
        if number % 2:
            scene = spoil(prompt, scene, ALIGNMENT_FAULTS[rng.integers(len(ALIGNMENT_FAULTS))], rng)
        truth = alignment([Seen(thing.shape, thing.colour, thing.centre) for thing in scene.things], prompt)
        right += abs(judge_picture(to_uint8(render(scene)) / 255, prompt).alignment - truth) < 1e-9
    assert right >= 0.98 * 300


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("blur", "sharpness"),
        ("noise", "cleanness"),
        ("low_contrast", "contrast"),
        ("motion_blur", "sharpness"),
        ("stripes", "cleanness"),
        ("colour_cast", "contrast"),
    ],
)
def test_gold_falls_with_the_severity_of_a_fault(fault: str, part: str) -> None:
    rng = np.random.default_rng(1)
    means = []
    for severity in (0.1, 0.5, 1.0):
        scores = []
        for _ in range(25):
            prompt = sample_prompt(rng)
            pixels = degrade(render(sample_scene(prompt, rng)), Degradation(fault, severity), rng)
            scores.append(getattr(judge_picture(to_uint8(pixels) / 255, prompt), part))
        means.append(np.mean(scores))
    assert means[0] > means[1] + 0.05
    assert means[1] > means[2] + 0.02


def test_a_blank_picture_is_worth_nothing() -> None:
    gold = judge_picture(np.full((32, 32, 3), 0.9), LabPrompt("single", (Described("circle"),)))
    assert gold.overall == 0


def test_an_extra_thing_costs_its_share() -> None:
    # one of one asked for is there, but two are seen: 1 / max(1, 2)
    seen = [Seen("circle", "red", (8.0, 8.0)), Seen("square", "blue", (24.0, 24.0))]
    assert alignment(seen, LabPrompt("single", (Described("circle"),))) == 0.5


def test_a_wrong_colour_costs_half_a_thing() -> None:
    seen = [Seen("circle", "blue", (8.0, 8.0))]
    assert alignment(seen, LabPrompt("colour", (Described("circle", "red"),))) == 0.5


def test_a_broken_relation_costs_one_of_three_parts() -> None:
    # both things are there (2), the relation is not (0): 2 / (2 + 1)
    seen = [Seen("circle", "red", (8.0, 24.0)), Seen("square", "blue", (8.0, 8.0))]
    prompt = LabPrompt("position", (Described("circle"), Described("square")), "left of")
    assert alignment(seen, prompt) == pytest.approx(2 / 3)
