import torch

from rewarddance.rewards.backbones.protocol import Picture
from rewarddance.rewards.questions import Medium, QuestionWording, comparison_question, quality_question

WORDING = QuestionWording()


def _picture() -> Picture:
    return Picture(torch.zeros(1), tokens=1, grid=(1, 1))


P1, P2 = _picture(), _picture()
FIRST, SECOND = Medium("first", (P1,)), Medium("second", (P2,))
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
