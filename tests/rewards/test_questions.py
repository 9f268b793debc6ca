from itertools import pairwise

import torch

from rewarddance.rewards.backbones.protocol import Picture
from rewarddance.rewards.questions import Medium, QuestionWording, comparison_question, quality_question

WORDING = QuestionWording()


def _picture() -> Picture:
    return Picture(torch.zeros(1), tokens=1, grid=(1, 1))


P1, P2 = _picture(), _picture()
FIRST, SECOND = Medium("first", (P1,)), Medium("second", (P2,))
THIRD = P = Medium("third", (P1,))
CLIP = Medium("clip", (P1, P2), is_clip=True)


def _read_out(parts: tuple[object, ...]) -> str:
    return "".join(part if isinstance(part, str) else "#" for part in parts)


def test_a_comparison_asks_whether_image_2_is_better():
    question = comparison_question(WORDING, "Judge.", "a cat", FIRST, SECOND)
    assert question.parts == (
        "Judge.\nPrompt: a cat\nImage 1: ",
        P1,
        "\nImage 2: ",
        P2,
        "\nIs image 2 better than image 1? Answer yes or no.",
    )


def test_without_criteria_the_prompt_stands_first():
    assert comparison_question(WORDING, "", "a cat", FIRST, SECOND).parts[0] == "Prompt: a cat\nImage 1: "


def test_a_quality_question_shows_one_image():
    question = quality_question(WORDING, "Judge.", "a cat", FIRST)
    assert question.parts == (
        "Judge.\nPrompt: a cat\nImage: ",
        P1,
        "\nIs this a good image for the prompt? Answer yes or no.",
    )


def test_the_frames_of_a_clip_are_numbered():
    question = comparison_question(WORDING, "", "a cat", CLIP, CLIP)
    assert _read_out(question.parts) == (
        "Prompt: a cat\nClip 1:\nFrame 1: #\nFrame 2: #\nClip 2:\nFrame 1: #\nFrame 2: #"
        "\nIs clip 2 better than clip 1? Answer yes or no."
    )


def test_an_image_and_a_clip_keep_their_own_names():
    question = comparison_question(WORDING, "", "a cat", FIRST, CLIP)
    assert _read_out(question.parts).endswith("Is clip 2 better than image 1? Answer yes or no.")


def test_braces_in_a_prompt_are_only_text():
    question = quality_question(WORDING, "", "{medium} {second} {0.__class__}", FIRST)
    assert question.parts[0] == "Prompt: {medium} {second} {0.__class__}\nImage: "


def test_the_two_orders_are_different_questions():
    forward = comparison_question(WORDING, "", "a cat", FIRST, SECOND)
    assert forward.key != comparison_question(WORDING, "", "a cat", SECOND, FIRST).key
    assert forward.key == comparison_question(WORDING, "", "a cat", FIRST, SECOND).key


def test_what_two_candidates_of_a_prompt_share_stands_first():
    one, other = (comparison_question(WORDING, "Judge.", "a cat", FIRST, second) for second in (SECOND, CLIP))
    assert one.parts[:2] == other.parts[:2]


def test_several_references_are_numbered_and_the_candidate_comes_last():
    question = comparison_question(WORDING, "", "a cat", (FIRST, SECOND), THIRD)
    assert _read_out(question.parts) == (
        "Prompt: a cat\nImage 1: #\nImage 2: #\nImage 3: #"
        "\nIs image 3 better than image 1 and image 2? Answer yes or no."
    )


def test_in_the_other_order_the_candidate_stands_before_its_references():
    question = comparison_question(WORDING, "", "a cat", THIRD, (FIRST, SECOND))
    assert _read_out(question.parts).endswith("Are image 2 and image 3 better than image 1? Answer yes or no.")


def test_one_reference_in_a_tuple_is_the_same_question():
    assert comparison_question(WORDING, "", "a cat", (FIRST,), (SECOND,)) == comparison_question(
        WORDING, "", "a cat", FIRST, SECOND
    )


def test_two_references_and_a_candidate_differ_from_a_reference_and_two_candidates():
    forward = comparison_question(WORDING, "", "a cat", (FIRST, SECOND), THIRD)
    assert forward.key != comparison_question(WORDING, "", "a cat", FIRST, (SECOND, THIRD)).key


def test_the_source_of_an_edit_is_shown_before_the_media():
    question = comparison_question(WORDING, "Judge.", "make it red", FIRST, SECOND, THIRD)
    assert _read_out(question.parts) == (
        "Judge.\nPrompt: make it red\nSource image: #\nImage 1: #\nImage 2: #"
        "\nIs image 2 better than image 1? Answer yes or no."
    )


def test_the_source_stands_before_a_single_medium_too():
    question = quality_question(WORDING, "", "it moves", CLIP, FIRST)
    assert _read_out(question.parts).startswith("Prompt: it moves\nSource image: #\nClip:\nFrame 1: #")


def test_a_question_with_a_source_is_another_question():
    for plain, sourced in (
        (comparison_question(WORDING, "", "x", FIRST, SECOND), comparison_question(WORDING, "", "x", FIRST, SECOND, P)),
        (quality_question(WORDING, "", "x", FIRST), quality_question(WORDING, "", "x", FIRST, P)),
    ):
        assert plain.key != sourced.key


def test_text_between_pictures_is_one_piece():
    parts = comparison_question(WORDING, "Judge.", "a cat", (FIRST, CLIP), THIRD, P).parts
    assert not any(isinstance(one, str) and isinstance(next_, str) for one, next_ in pairwise(parts))
