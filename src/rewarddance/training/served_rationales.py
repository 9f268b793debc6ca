"""A teacher and a judge of rationales behind a chat-completions service."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rewarddance.core.errors import MediaError
from rewarddance.core.media import load_frames
from rewarddance.core.seeding import numpy_rng
from rewarddance.core.types import Comparison, Media
from rewarddance.data.rationale_exchanges import Reply, exchange_key
from rewarddance.rewards.chat_endpoint import (
    ChatEndpoint,
    ChatOutcome,
    ChatPart,
    ChatRequest,
    EndpointSettings,
    sent_fields,
)
from rewarddance.rewards.chat_replies import ChatFailure, FailureKind
from rewarddance.rewards.png_files import png_file
from rewarddance.rewards.reasoning_settings import Format

RationaleOrder = Literal["answer_first", "reason_first", "mixed"]
"""How the teacher is to reason: from the choice back to its reasons, towards a choice, or half of the time each."""

# Asking again would bring the same; every other failure may be mended between two runs.
_FINAL = (FailureKind.REFUSED, FailureKind.CUT_SHORT)
DEFAULT_JUDGE_TOKENS = 6
"""Enough for a number; a judge that thinks first needs a few thousand."""

_RULES = (
    'Call the images "image 1" and "image 2" every time, and write other numbers as words. Say only what can be seen: '
    "what the prompt asks for that is missing, wrong or there, and how well each image is made. Do not say which image "
    "is better or was chosen. Write at most four short sentences, without lists or headings."
)
_ANSWER_FIRST = "People compared the two images and found image {number} better. Give their reasons. " + _RULES
_REASON_FIRST = (
    "People compared the two images and found image {number} better. Write down, step by step, what a careful judge "
    "notices in both images on the way to that judgement, and end before it. " + _RULES
)
_READING = (
    "Somebody looked at two images and wrote:\n\n{rationale}\n\n"
    "By these words alone, which image is better? Answer 1 for image 1, 2 for image 2, or 0 if the words do not tell. "
    "Answer with the number alone."
)


@dataclass(frozen=True, slots=True)
class TeacherSettings:
    """How a teacher is asked.

    Attributes:
        order: Which of the two formats it writes for.
        max_tokens: Longest rationale; one that does not end in time is left out.
        temperature: 0 for the likeliest text.
        seed: Decides which comparisons are asked in which format, and is sent along.
        frames_per_clip: Evenly spaced frames that stand for a clip.
    """

    order: RationaleOrder = "mixed"
    max_tokens: int = 400
    temperature: float = 0.7
    seed: int = 0
    frames_per_clip: int = 8


def teacher_name(endpoint: EndpointSettings, settings: TeacherSettings) -> str:
    """What identifies a served teacher with its words and everything that is sent along."""
    sent = sent_fields(endpoint, _teacher_request((), settings))
    how = {"order": settings.order, "seed": settings.seed, "frames_per_clip": settings.frames_per_clip}
    return f"{endpoint.model} {exchange_key(_ANSWER_FIRST, _REASON_FIRST, how, sent)[:8]}"


def served_teacher(
    endpoint: ChatEndpoint, settings: TeacherSettings
) -> Callable[[Sequence[Comparison]], Iterator[tuple[int, Reply]]]:
    """A teacher that sees both media, and is told the known choice."""

    def ask(comparisons: Sequence[Comparison]) -> Iterator[tuple[int, Reply]]:
        places: list[int] = []
        unreadable: list[tuple[int, Reply]] = []

        def requests() -> Iterator[ChatRequest]:
            for place, comparison in enumerate(comparisons):
                try:
                    parts = _question(comparison, settings)
                except MediaError as error:
                    unreadable.append((place, _unreadable(comparison, settings, error)))
                    continue
                places.append(place)
                yield _teacher_request(parts, settings)

        for number, outcome in endpoint.replies(requests()):
            asked = _asked(comparisons[places[number]], settings)
            yield places[number], _reply(asked, outcome)
        yield from unreadable

    return ask


def judge_name(endpoint: EndpointSettings, max_tokens: int = DEFAULT_JUDGE_TOKENS) -> str:
    """What identifies a served judge with its words and everything that is sent along."""
    return f"{endpoint.model} {exchange_key(_READING, sent_fields(endpoint, _judge_request('', max_tokens)))[:8]}"


def served_judge(
    endpoint: ChatEndpoint, max_tokens: int = DEFAULT_JUDGE_TOKENS
) -> Callable[[Sequence[str]], Iterator[tuple[int, Reply]]]:
    """A judge that reads rationales and sees nothing else.

    Args:
        endpoint: The service.
        max_tokens: Longest reply; one that does not end in time is no answer.
    """

    def ask(rationales: Sequence[str]) -> Iterator[tuple[int, Reply]]:
        questions = [_READING.replace("{rationale}", rationale) for rationale in rationales]
        for place, outcome in endpoint.replies(_judge_request(text, max_tokens) for text in questions):
            yield place, _reply(questions[place], outcome)

    return ask


def _teacher_request(parts: tuple[ChatPart, ...], settings: TeacherSettings) -> ChatRequest:
    return ChatRequest(parts, settings.max_tokens, settings.temperature, settings.seed)


def _judge_request(question: str, max_tokens: int) -> ChatRequest:
    return ChatRequest((question,), max_tokens, temperature=0.0)


def _question(comparison: Comparison, settings: TeacherSettings) -> tuple[ChatPart, ...]:
    parts: list[ChatPart] = [f"Prompt: {comparison.prompt}\n"]
    if comparison.source_media is not None:
        parts += ["The prompt is about this source image: ", *_files(comparison.source_media, settings), "\n"]
    parts += ["Image 1: ", *_files(comparison.first, settings), "\nImage 2: ", *_files(comparison.second, settings)]
    return (*parts, f"\n{_request(comparison, settings)}")


def _files(medium: Media, settings: TeacherSettings) -> list[bytes]:
    return [png_file(frame) for frame in load_frames(medium, settings.frames_per_clip)]


def _request(comparison: Comparison, settings: TeacherSettings) -> str:
    words = {"answer_first": _ANSWER_FIRST, "reason_first": _REASON_FIRST}[_format_of(comparison, settings)]
    return words.replace("{number}", "1" if comparison.choice == "first" else "2")


def _format_of(comparison: Comparison, settings: TeacherSettings) -> Format:
    if settings.order != "mixed":
        return settings.order
    draw = numpy_rng(settings.seed, "rationale format", comparison.id).random()
    return "answer_first" if draw < 0.5 else "reason_first"


def _asked(comparison: Comparison, settings: TeacherSettings) -> str:
    source = "" if comparison.source_media is None else "The prompt is about this source image: [source]\n"
    return (
        f"Prompt: {comparison.prompt}\n{source}Image 1: [image 1]\nImage 2: [image 2]\n{_request(comparison, settings)}"
    )


def _unreadable(comparison: Comparison, settings: TeacherSettings, error: MediaError) -> Reply:
    return Reply(_asked(comparison, settings), None, "unreadable_media", str(error), is_final=False, tries=0)


def _reply(asked: str, outcome: ChatOutcome) -> Reply:
    if isinstance(outcome, ChatFailure):
        return Reply(
            asked,
            None,
            outcome.kind.value,
            outcome.message,
            is_final=outcome.kind in _FINAL,
            tries=outcome.tries,
            raw_text=outcome.text,
        )
    return Reply(
        asked,
        outcome.text,
        tries=outcome.tries,
        prompt_tokens=outcome.prompt_tokens,
        generated_tokens=outcome.generated_tokens,
    )
