from pathlib import Path

import pytest

from rewarddance.core.rationale_text import with_media_swapped
from rewarddance.core.types import Comparison, JudgementCost, Media


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("Image 2 shows a red cube; image 1 does not.", "Image 1 shows a red cube; image 2 does not."),
        ("Clip 1 is blurred, IMAGE 2 is sharp.", "Clip 2 is blurred, IMAGE 1 is sharp."),
        ("The first image is pale, the Second image is not.", "The second image is pale, the First image is not."),
        ("image1 and image #2", "image2 and image #1"),
        ("Images 1 and 2 are alike; there are 2 cubes in image 12.", None),
        ("The second cube is missing.", None),
        ("image 1.5 is no image", None),
    ],
)
def test_media_change_their_numbers_and_nothing_else_changes(text: str, swapped: str | None) -> None:
    assert with_media_swapped(text) == (text if swapped is None else swapped)


def test_swapped_twice_a_rationale_is_as_it_was() -> None:
    text = "Image 1 shows the first image's cube; the second image and image 2 are blurred."
    assert with_media_swapped(with_media_swapped(text)) == text


def test_a_swapped_comparison_has_reasons_for_the_order_in_which_it_is_shown() -> None:
    shown = Comparison(
        "a", "a cube", Media(Path("1.png")), Media(Path("2.png")), "second", rationale="Image 1 lacks the cube."
    )
    assert shown.swapped().rationale == "Image 2 lacks the cube."
    assert shown.swapped().swapped() == shown


def test_costs_add_up() -> None:
    assert JudgementCost(1, 20, 5, 1) + JudgementCost(2, 30, 0, 0) == JudgementCost(3, 50, 5, 1)
