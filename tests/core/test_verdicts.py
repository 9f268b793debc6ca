import pytest

from rewarddance.core.verdicts import without_verdicts


@pytest.mark.parametrize(
    "verdict",
    [
        "Image 2 is better.",
        "Therefore image 1 is clearly the better one.",
        "image 2 is the winner!",
        "Overall, image 1 wins.",
        "I prefer image 2.",
        "The preferred image is image 1.",
        "So the answer is yes.",
        "The first image is superior.",
        "Image 2 would be preferred",
        "The better choice is image 2.",
    ],
)
def test_a_sentence_that_states_the_choice_is_left_out(verdict: str):
    assert without_verdicts(f"Image 1 has no dog. {verdict}") == "Image 1 has no dog."


@pytest.mark.parametrize(
    "reason",
    [
        "Image 2 is sharper.",
        "image 1 has no red circle and much blur.",
        "Image 1 is better at showing hands.",
        "The second image shows three cats, the first shows two.",
        "image 2 has everything. image 2 is cleaner.",
    ],
)
def test_a_reason_stays_as_it_is(reason: str):
    assert without_verdicts(reason) == reason


def test_reasons_become_one_line():
    assert without_verdicts("Image 1 is dark.\n\n Image 2  is bright.\n") == "Image 1 is dark. Image 2 is bright."


@pytest.mark.parametrize("text", ["", "  \n", "Image 2 is better.", "Image 2 is better; the answer is yes"])
def test_nothing_is_left_where_no_reason_was_given(text: str):
    assert without_verdicts(text) == ""
