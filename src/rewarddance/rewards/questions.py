"""The words in which media are put before the model.

What repeats stands first (criteria, prompt, reference image), so that its prefix can be shared between questions.
The wording is stored with every model: a score can only be reproduced by asking the same question.

Source:
    RewardDance, arXiv:2509.08826, Fig. 3: "Is image 2 better than image 1?", image 1 being the reference.
    Differs: prompt and criteria stand before the images instead of after them; no reasons are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rewarddance.rewards.backbones.protocol import Part, Picture


@dataclass(frozen=True, slots=True)
class QuestionWording:
    """Every word of a question that is not the prompt or the criteria.

    Attributes:
        prompt_label: Stands before the prompt.
        image_noun: What an image is called.
        clip_noun: What a clip is called.
        frame_noun: What a frame of a clip is called.
        comparison: Asked about two media; `{second}` and `{first}` become "image 2", "clip 1", ...
        quality: Asked about one medium; `{medium}` becomes "image" or "clip".
    """

    prompt_label: str = "Prompt: "
    image_noun: str = "Image"
    clip_noun: str = "Clip"
    frame_noun: str = "Frame"
    comparison: str = "Is {second} better than {first}? Answer yes or no."
    quality: str = "Is this a good {medium} for the prompt? Answer yes or no."


@dataclass(frozen=True, slots=True)
class Medium:
    """An image or clip that is ready for the vision tower.

    Attributes:
        key: Equal for the same medium within one call.
        pictures: One picture, or the frames of a clip in order.
        is_clip: Whether the pictures are frames.
    """

    key: str
    pictures: tuple[Picture, ...]
    is_clip: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A question to be answered by yes or no.

    Attributes:
        key: Equal for the same question within one call, so that it is asked once.
        parts: Text and pictures in reading order.
    """

    key: tuple[str, ...]
    parts: tuple[Part, ...]


def comparison_question(
    wording: QuestionWording, criteria: str, prompt: str, first: Medium, second: Medium
) -> Question:
    """Asks whether the second medium is better than the first.

    Args:
        wording: The fixed words.
        criteria: Text of the instruction; empty for none.
        prompt: What asked for the media, whole: it is never cut.
        first: Medium 1, the reference.
        second: Medium 2, the candidate.
    """
    first_name, second_name = f"{_noun(wording, first)} 1", f"{_noun(wording, second)} 2"
    asked = wording.comparison.replace("{second}", second_name.lower()).replace("{first}", first_name.lower())
    parts = [
        *_shown(wording, f"{_opening(wording, criteria, prompt)}{first_name}: ", first),
        *_shown(wording, f"\n{second_name}: ", second),
        f"\n{asked}",
    ]
    return Question(("comparison", criteria, prompt, first.key, second.key), tuple(parts))


def quality_question(wording: QuestionWording, criteria: str, prompt: str, medium: Medium) -> Question:
    """Asks whether one medium is good for its prompt; the arguments are as in `comparison_question`."""
    noun = _noun(wording, medium)
    parts = [
        *_shown(wording, f"{_opening(wording, criteria, prompt)}{noun}: ", medium),
        f"\n{wording.quality.replace('{medium}', noun.lower())}",
    ]
    return Question(("quality", criteria, prompt, medium.key), tuple(parts))


def _opening(wording: QuestionWording, criteria: str, prompt: str) -> str:
    return (f"{criteria}\n" if criteria else "") + f"{wording.prompt_label}{prompt}\n"


def _noun(wording: QuestionWording, medium: Medium) -> str:
    return wording.clip_noun if medium.is_clip else wording.image_noun


def _shown(wording: QuestionWording, lead: str, medium: Medium) -> Sequence[Part]:
    """The pictures of a medium after their lead; a clip's frames are numbered, one a line."""
    if not medium.is_clip:
        return [lead, *medium.pictures]
    parts: list[Part] = []
    for number, picture in enumerate(medium.pictures, start=1):
        frame = f"\n{wording.frame_noun} {number}: "
        parts += [lead.rstrip() + frame if number == 1 else frame, picture]
    return parts
