"""The words in which media are put before the model.

What repeats stands first (criteria, prompt, source, references), so that its prefix can be shared between questions.
The wording is stored with every model: a score can only be reproduced by asking the same question.

Source:
    RewardDance, arXiv:2509.08826, Fig. 3: "Is image 2 better than image 1?", image 1 being the reference.
    Differs: prompt and criteria stand before the images instead of after them; no reasons are asked for. Several
    reference images stand in one question with the same words, "is image 3 better than image 1 and image 2?", of
    which the paper says nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rewarddance.rewards.backbones.protocol import Part, Picture

# In no path and no hash.
_KEY_SEPARATOR = "\0"


@dataclass(frozen=True, slots=True)
class QuestionWording:
    """Every word of a question that is not the prompt or the criteria.

    Attributes:
        prompt_label: Stands before the prompt.
        image_noun: What an image is called.
        clip_noun: What a clip is called.
        frame_noun: What a frame of a clip is called.
        source_noun: Put before the noun of what an edit or an image-to-video prompt starts from.
        comparison: Asked about two media; `{second}` and `{first}` become "image 2", "clip 1", ...
        comparison_of_several: The same when the second side has several media: "image 2 and image 3".
        conjunction: Stands between the media of a side.
        quality: Asked about one medium; `{medium}` becomes "image" or "clip".
        answer_request: The last words of a question that is answered at once.
        reasons_request: What stands in their place when reasons are to come first.
        rationale_lead: Stands between an answer and the reasons that follow it.
        answer_lead: Stands between reasons and the answer that follows them; begins with a new line, which is how a
            rationale of one line ends.
    """

    prompt_label: str = "Prompt: "
    image_noun: str = "Image"
    clip_noun: str = "Clip"
    frame_noun: str = "Frame"
    source_noun: str = "Source"
    comparison: str = "Is {second} better than {first}? Answer yes or no."
    comparison_of_several: str = "Are {second} better than {first}? Answer yes or no."
    conjunction: str = " and "
    quality: str = "Is this a good {medium} for the prompt? Answer yes or no."
    answer_request: str = "Answer yes or no."
    reasons_request: str = "Give your reasons, then answer yes or no."
    rationale_lead: str = "\n"
    answer_lead: str = "\nAnswer:"


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


Side = Medium | tuple[Medium, ...]
"""One side of a comparison: a medium, or several that are shown together."""


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
    wording: QuestionWording, criteria: str, prompt: str, first: Side, second: Side, source: Medium | None = None
) -> Question:
    """Asks whether the second medium is better than the first.

    Args:
        wording: The fixed words.
        criteria: Text of the instruction; empty for none.
        prompt: What asked for the media, whole: it is never cut.
        first: Medium 1, the reference; or several of them.
        second: Medium 2, the candidate; or several references, where the candidate stands first.
        source: What an edit or an image-to-video prompt starts from.
    """
    sides = [side if isinstance(side, tuple) else (side,) for side in (first, second)]
    parts = _opening(wording, criteria, prompt, source)
    names: list[str] = []
    for number, medium in enumerate((*sides[0], *sides[1]), start=1):
        names.append(f"{_noun(wording, medium)} {number}")
        parts += [*_shown(wording, f"{names[-1]}: ", medium), "\n"]
    split = len(sides[0])
    asked = wording.comparison if len(sides[1]) == 1 else wording.comparison_of_several
    for place, side_names in (("{second}", names[split:]), ("{first}", names[:split])):
        asked = asked.replace(place, wording.conjunction.join(side_names).lower())
    keys = [_KEY_SEPARATOR.join(medium.key for medium in side) for side in sides]
    return Question(("comparison", criteria, prompt, *keys, *_source_key(source)), _joined([*parts, asked]))


def quality_question(
    wording: QuestionWording, criteria: str, prompt: str, medium: Medium, source: Medium | None = None
) -> Question:
    """Asks whether one medium is good for its prompt; the arguments are as in `comparison_question`."""
    noun = _noun(wording, medium)
    asked = wording.quality.replace("{medium}", noun.lower())
    opening = _opening(wording, criteria, prompt, source)
    parts = _joined([*opening, *_shown(wording, f"{noun}: ", medium), "\n", asked])
    return Question(("quality", criteria, prompt, medium.key, *_source_key(source)), parts)


def _source_key(source: Medium | None) -> tuple[str, ...]:
    return () if source is None else (f"source{_KEY_SEPARATOR}{source.key}",)


def _opening(wording: QuestionWording, criteria: str, prompt: str, source: Medium | None) -> list[Part]:
    opening: list[Part] = [(f"{criteria}\n" if criteria else "") + f"{wording.prompt_label}{prompt}\n"]
    if source is not None:
        lead = f"{wording.source_noun} {_noun(wording, source).lower()}: "
        opening += [*_shown(wording, lead, source), "\n"]
    return opening


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Neighbouring texts as one, so that a tokenizer sees them whole."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, str) and isinstance(last, str):
            joined[-1] = last + part
        else:
            joined.append(part)
    return tuple(joined)


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
