import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rewarddance.core.errors import UsageError
from rewarddance.core.rationale_text import with_media_swapped
from rewarddance.core.types import Comparison, Media
from rewarddance.core.verdicts import without_verdicts
from rewarddance.data.comparisons import ComparisonSet
from rewarddance.lab.comparisons import draw_comparisons
from rewarddance.lab.faults import report_on
from rewarddance.lab.prompts import parse_prompt
from rewarddance.lab.teacher import LabTeacher, lab_judge, read_choice
from rewarddance.lab.world import Degradation, Scene, Thing, degrade, render

CIRCLE = Thing("circle", "red", top=2, left=2, size=11)
SQUARE = Thing("square", "blue", top=18, left=18, size=11)


def words_for(prompt: str, *things: Thing, fault: str | None = None) -> list[str]:
    pixels = render(Scene(things))
    if fault is not None:
        pixels = degrade(pixels, Degradation(fault, 1.0), np.random.default_rng(0))
    return report_on(pixels, parse_prompt(prompt)).words


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Comparison]:
    """Judged comparisons in and out of the domain, ties left out."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_comparisons(folder, {"train": 50, "test_out": 25}, seed=3)
    return [one for one in ComparisonSet.open(folder) if one.choice != "tie"]


TEACHER = LabTeacher(wrong_share=0.3)


@pytest.fixture(scope="module")
def texts(drawn: list[Comparison]) -> dict[str, str]:
    """What the teacher writes for each comparison: looking at pictures takes a while."""
    return {drawn[place].id: reply.text for place, reply in TEACHER(drawn)}


def share_led_to_the_choice(comparisons: Sequence[Comparison], texts: Mapping[str, str]) -> float:
    predicted = [reply.text for _, reply in lab_judge([texts[one.id] for one in comparisons])]
    number = {"first": "1", "second": "2"}
    return float(np.mean([said == number[one.choice] for said, one in zip(predicted, comparisons, strict=True)]))


@pytest.mark.parametrize(
    ("prompt", "things", "words"),
    [
        ("a red circle and a blue square", (CIRCLE, SQUARE), []),
        ("a red circle and a blue square", (CIRCLE,), ["no blue square"]),
        ("a green circle", (CIRCLE,), ["a red circle for a green circle"]),
        ("a red square", (CIRCLE,), ["a red circle for a red square"]),
        ("a circle", (CIRCLE, SQUARE), ["an extra blue square"]),
        ("a circle right of a square", (CIRCLE, SQUARE), ["the circle not right of the square"]),
        ("a circle left of a square", (CIRCLE, SQUARE), []),
    ],
)
def test_what_a_picture_shows_wrongly_is_named(prompt: str, things: tuple[Thing, ...], words: list[str]):
    assert words_for(prompt, *things) == words


@pytest.mark.parametrize(("fault", "words"), [("blur", "much blur"), ("low_contrast", "very low contrast")])
def test_how_badly_a_picture_is_made_is_named(fault: str, words: str):
    assert words_for("a red circle and a blue square", CIRCLE, SQUARE, fault=fault) == [words]


@pytest.mark.parametrize(
    ("rationale", "number"),
    [
        ("image 1 has no red circle. image 2 has everything.", "2"),
        ("image 1 has blur. image 2 has no red circle.", "1"),
        ("image 1 has much blur. image 2 has blur.", "2"),
        ("image 1 has everything. image 2 has everything.", "0"),
        ("image 1 has everything. image 2 has everything. image 2 is sharper.", "2"),
        ("image 1 has an extra red square and noise. image 2 has an extra red square. image 1 is sharper.", "2"),
        ("nothing that it knows", "0"),
        ("image 1 has no red circle.", "0"),
    ],
)
def test_the_reader_weighs_what_the_words_say(rationale: str, number: str):
    assert read_choice(rationale) == number


def test_planted_wrong_rationales_are_told_from_right_ones(drawn, texts):
    wrong = [one for one in drawn if TEACHER.is_wrong(one)]
    right = [one for one in drawn if not TEACHER.is_wrong(one)]

    assert 0.2 < len(wrong) / len(drawn) < 0.4
    # People of the lab choose against gold one time in nine, which no true rationale can explain.
    assert share_led_to_the_choice(right, texts) >= 0.8
    assert share_led_to_the_choice(wrong, texts) <= 0.1


def test_which_are_wrong_depends_on_the_seed_and_on_nothing_else(drawn):
    def wrong(seed: int, comparisons: Sequence[Comparison]) -> list[str]:
        return [one.id for one in comparisons if LabTeacher(0.3, seed).is_wrong(one)]

    assert wrong(0, drawn) == wrong(0, drawn[::-1])[::-1]
    assert wrong(0, drawn) != wrong(1, drawn)


def test_a_rationale_is_one_line_that_states_no_choice(texts):
    assert {name: without_verdicts(text) for name, text in texts.items()} == texts


def test_every_rationale_can_change_places(texts):
    for text in texts.values():
        assert with_media_swapped(text) == re.sub(r"(?<=image )[12]", lambda found: "21"[int(found[0]) - 1], text)


def test_a_comparison_shown_the_other_way_round_gets_the_same_reasons(drawn):
    there, back = (LabTeacher().text(one) for one in (drawn[0], drawn[0].swapped()))

    assert sorted(re.findall(r"[^.]+", with_media_swapped(there).replace(". ", "."))) == sorted(
        re.findall(r"[^.]+", back.replace(". ", "."))
    )


def test_an_invented_fault_speaks_against_the_chosen_image():
    assert read_choice("image 1 has no red circle and much blur. image 2 has everything.") == "2"


def test_a_prompt_of_another_world_is_refused_and_named(drawn: list[Comparison]):
    foreign = replace(drawn[0], prompt="a cat on a mat")
    with pytest.raises(UsageError, match=f"comparison {drawn[0].id}: not a prompt of the lab's world"):
        list(TEACHER([foreign]))


def test_a_picture_that_cannot_be_read_is_that_comparisons_failure(drawn: list[Comparison]):
    broken = replace(drawn[0], first=Media(Path("missing.png")))
    (_, reply), (_, other) = TEACHER([broken, drawn[1]])
    assert (reply.text, reply.failure, reply.is_final) == (None, "unreadable_media", False)
    assert other.text
