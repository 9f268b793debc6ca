from pathlib import Path

import pytest

from rewarddance.core.rationale_text import can_swap_media, rationale_when_swapped, with_media_swapped
from rewarddance.core.types import Comparison, JudgementCost, Media


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("Image 2 shows a red cube; image 1 does not.", "Image 1 shows a red cube; image 2 does not."),
        ("Clip 1 is blurred, IMAGE 2 is sharp.", "Clip 2 is blurred, IMAGE 1 is sharp."),
        ("The first image is pale, the Second image is not.", "The second image is pale, the First image is not."),
        ("image1 and image #2", "image2 and image #1"),
        ("Images 1 and 2 are alike.", "Images 2 and 1 are alike."),
        ("Image 1 and 2 both show a dog.", "Image 2 and 1 both show a dog."),
        ("Image #1 vs #2: one dog each.", "Image #2 vs #1: one dog each."),
        ("#1 is dark, while #2 is not.", "#2 is dark, while #1 is not."),
        ("Image no. 1 is dark, **image 2** is not.", "Image no. 2 is dark, **image 1** is not."),
        ("Image one is blurred, image two is sharp.", "Image two is blurred, image one is sharp."),
        ("Images one and two differ.", "Images two and one differ."),
        ("The first and second images differ.", "The second and first images differ."),
        ("The 1st image is dark.", "The 2nd image is dark."),
        (
            "The first shows three cats while the second lacks them.",
            "The second shows three cats while the first lacks them.",
        ),
        ("The first one's sky is blue, the second's is not.", "The second one's sky is blue, the first's is not."),
        (
            "In the first, the dog is red; in the second, it is not.",
            "In the second, the dog is red; in the first, it is not.",
        ),
        ("The first and the second are alike.", "The second and the first are alike."),
        ("Clip 1's second half is pale.", "Clip 2's second half is pale."),
    ],
)
def test_media_change_places_and_nothing_else_changes(text: str, swapped: str) -> None:
    assert with_media_swapped(text) == swapped
    assert with_media_swapped(swapped) == text


@pytest.mark.parametrize(
    "text",
    [
        "The second cube is missing.",
        "It shows 2 circles, the 2 squares with 1 dog, and has 2.",
        "The second red circle is left of the first square.",
        "A 2D drawing, 2-legged, 1:1, 1.5 times as bright and 2% darker.",
        "First, there is no dog. Second, it is dark.",
        "At first glance it is a first-rate picture; for a second, one doubts it.",
        "One of the two dogs has one ear.",
        "The former is dark, the other is not.",
        "",
    ],
)
def test_counts_are_no_places(text: str) -> None:
    assert can_swap_media(text)
    assert with_media_swapped(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Image 1 has a cat, whereas 2 has none.",
        "Unlike image 1, 2 shows the dog.",
        "Image 2 is darker than 1.",
        "Compared with 2, image 1 is dark.",
        "image 1 has a dog and 2 cats",
        "In the image 2 dogs play.",
        "The image one sees is dark.",
        "Image one has a dog, and two has none.",
        "1: dark. 2: bright.",
        "Image 1/2 show it.",
        "image 1.5 is no image",
        "There is no image 12.",
        "Image 1 shows two cubes; the second is red.",
        "Two dogs are there. The first is brown, the second is white.",
        "The first image shows two dogs; the first is brown.",
        "The first image is brown, the second white.",
        "The second, darker image lacks it.",
        "The second generated image lacks it.",
        "The first two images are dark.",
        "The second option is dark.",
        "Option 1 is dark.",
        "The left image is dark.",
        "The image on the right is dark.",
        "Image A is dark, image B is not.",
        "The last image is dark.",
        "A player with #2 stands there.",
    ],
)
def test_what_may_be_a_place_is_in_doubt_and_never_swapped_by_half(text: str) -> None:
    assert not can_swap_media(text)
    assert rationale_when_swapped(text) is None
    with pytest.raises(ValueError, match="cannot be exchanged"):
        with_media_swapped(text)


def test_swapped_twice_a_rationale_is_as_it_was() -> None:
    text = "Image 1 shows the first image's cube; the second image and image 2 are blurred."
    assert with_media_swapped(with_media_swapped(text)) == text


def test_a_swapped_comparison_has_reasons_for_the_order_in_which_it_is_shown() -> None:
    shown = Comparison(
        "a", "a cube", Media(Path("1.png")), Media(Path("2.png")), "second", rationale="Image 1 lacks the cube."
    )
    assert shown.swapped().rationale == "Image 2 lacks the cube."
    assert shown.swapped().swapped() == shown


def test_a_swapped_comparison_has_no_reasons_rather_than_wrong_ones() -> None:
    shown = Comparison(
        "a", "a cube", Media(Path("1.png")), Media(Path("2.png")), "second", rationale="Image 2 has it, 1 has not."
    )
    assert (shown.swapped().choice, shown.swapped().rationale) == ("first", None)


def test_costs_add_up() -> None:
    assert JudgementCost(1, 20, 5, 1) + JudgementCost(2, 30, 0, 0) == JudgementCost(3, 50, 5, 1)
