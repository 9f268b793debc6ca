import pytest

from rewarddance.core.verdicts import without_thinking, without_verdicts


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
        "People found image 2 better because it has the dog.",
        "Image 2 was judged better.",
        "Image 2 was found better by people.",
        "People liked image 2 more: it has the dog.",
        "Therefore people judged image 2 as the better image.",
        "People considered image 2 to be the better one.",
        "Image two was deemed superior.",
        "Most people voted for image 2.",
        "Image 2 was voted the best.",
        "Judges ranked image 2 first.",
        "Image 2 was rated higher than image 1.",
        "The second was chosen.",
        "That is why they picked it.",
        "It was preferred.",
        "Image 2 is what people chose.",
        "It was found that the second image is better.",
        "Image 1 is worse.",
        "People rejected image 1.",
        "Image 2 is, therefore, the better one.",
        "**Image 2** is better in every way.",
        "Image 2 is better liked.",
        "Answer: 2.",
        "Therefore, image 2.",
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
        "image 2 shows the red circle that was asked for",
        "Image 2 is better lit and has better hands.",
        "People found image 2 sharper.",
        "Image 2 was found to lack the dog.",
        "The dog found in image 2 is brown.",
        "The colours chosen in image 1 are pale.",
        "The circle of image 1 is placed above the square, and seen from above.",
        "Image 1 shows a judge, and people voting.",
        "Like image 2, image 1 shows a dog.",
        "Image 1 loses detail in the shadows.",
    ],
)
def test_a_reason_stays_as_it_is(reason: str):
    assert without_verdicts(reason) == reason


def test_reasons_become_one_line():
    assert without_verdicts("Image 1 is dark.\n\n Image 2  is bright.\n") == "Image 1 is dark. Image 2 is bright."


@pytest.mark.parametrize("text", ["", "  \n", "Image 2 is better.", "Image 2 is better; the answer is yes"])
def test_nothing_is_left_where_no_reason_was_given(text: str):
    assert without_verdicts(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "<think>They found image 2 better. So image 1 has a fault.</think> Image 1 is dark.",
        "People chose 2, so I look for faults.\n</think>\n\nImage 1 is dark.",
        "<thinking>2?</thinking><think>Yes.</think>Image 1 is dark.",
        "Image 1 is dark. <think>People chose image 2, so",
    ],
)
def test_what_a_model_thinks_before_it_speaks_is_no_reason(text: str):
    assert without_verdicts(text) == "Image 1 is dark."


def test_a_thought_that_never_ends_leaves_nothing():
    assert without_thinking("<think>I am not done") == ""
