"""What the base models are taught: captions and yes/no questions about two pictures of the world.

Preference itself is left out on purpose: no question asks which image is *better*, and none weighs alignment
against quality. That is what a reward model has to learn. The faults of `UNSEEN_FAULTS` never occur here either.
"""

from dataclasses import dataclass

import numpy as np

from rewarddance.lab.candidates import LabCandidate, draw_candidate
from rewarddance.lab.prompts import (
    COLOURS,
    NUMBER_WORDS,
    PLURALS,
    RELATIONS,
    SHAPES,
    Colour,
    LabPrompt,
    Shape,
    sample_prompt,
)
from rewarddance.lab.world import holds

QUALITIES = (
    ("sharp", "sharper", "blur"),
    ("clean", "cleaner", "noise"),
    ("rich in contrast", "richer in contrast", "low_contrast"),
)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question with its answer, about the pictures of one item.

    Attributes:
        topic: What is asked about, for the exam.
        question: Without chat format.
        answer: "yes" or "no", or a caption.
    """

    topic: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt, two candidate pictures, and lessons about them."""

    prompt: LabPrompt
    candidates: tuple[LabCandidate, LabCandidate]
    lessons: tuple[Lesson, ...]


def draw_item(rng: np.random.Generator) -> Item:
    """Draw an item of the whole world, in and out of the comparisons' domain, with three or four lessons."""
    prompt = sample_prompt(rng, "in" if rng.random() < 0.8 else "out")
    first, second = (draw_candidate(prompt, rng, avoid_held_out=False) for _ in range(2))
    pair = (first, second)
    lessons = [_describes(pair, rng), _which_is_cleaner(pair, rng) if rng.random() < 0.7 else _quality(pair, rng)]
    lessons.append(_caption(pair, rng) if rng.random() < 0.3 else _matches(pair, rng))
    if abs(first.alignment - second.alignment) > 1e-6:
        lessons.append(_which_matches(pair, rng))
    return Item(prompt, pair, tuple(lessons))


def lessons_on_one(pair: tuple[LabCandidate, LabCandidate], rng: np.random.Generator) -> tuple[Lesson, Lesson]:
    """What one picture shows, and whether a picture shows the prompt: nothing that compares the two."""
    return _describes(pair, rng), _matches(pair, rng)


def describe(candidate: LabCandidate) -> str:
    """A caption: every thing in reading order, and its faults of quality."""
    things = sorted(candidate.scene.things, key=lambda thing: (thing.top >= 16, thing.left))
    words = " and ".join(f"a {thing.colour} {thing.shape}" for thing in things) or "nothing"
    faults = [name.replace("_", " ") for _, _, name in QUALITIES if candidate.severity(name) > 0.3]
    return f"{words}, with {' and '.join(faults)}" if faults else words


def corpus(rng: np.random.Generator, items: int = 400) -> list[str]:
    """Sentences that the tokenizer is trained on."""
    fixed = [
        "Judge how well each image shows the prompt and how clean it is.\nPrompt: ",
        "\nImage 1: \nImage 2: \nImage: \nIs image 2 better than image 1? Answer yes or no.",
        "\nIs this a good image for the prompt? Answer yes or no.",
        "<|im_start|>user\n and assistant\n user assistant user\nassistant\n",
    ] * 100
    drawn = [draw_item(rng) for _ in range(items)]
    lines = [text for item in drawn for lesson in item.lessons for text in (lesson.question, " " + lesson.answer)]
    return fixed + lines + [f"Prompt: {item.prompt.text}\n" for item in drawn]


def _lesson(topic: str, question: str, is_true: bool) -> Lesson:
    return Lesson(topic, question, "yes" if is_true else "no")


def _matches(pair: tuple[LabCandidate, LabCandidate], rng: np.random.Generator) -> Lesson:
    index = int(rng.integers(2))
    return _lesson("shows the prompt", f"Does image {index + 1} show the prompt?", pair[index].alignment > 0.999)


def _which_matches(pair: tuple[LabCandidate, LabCandidate], rng: np.random.Generator) -> Lesson:
    this = int(rng.integers(2))
    question = f"Does image {this + 1} show the prompt better than image {2 - this}?"
    return _lesson("shows it better", question, pair[this].alignment > pair[1 - this].alignment)


def _describes(pair: tuple[LabCandidate, LabCandidate], rng: np.random.Generator) -> Lesson:
    index = int(rng.integers(2))
    things = pair[index].scene.things
    match rng.integers(3):
        case 0:
            return _exists(pair, index, rng)
        case 1:
            shape = things[rng.integers(len(things))].shape
            count = sum(thing.shape == shape for thing in things)
            asked = count if rng.random() < 0.5 else int(rng.integers(1, 5))
            noun = shape if asked == 1 else PLURALS[shape]
            verb = "Is" if asked == 1 else "Are"
            question = f"{verb} there just {NUMBER_WORDS[asked]} {noun} in image {index + 1}?"
            return _lesson("count", question, asked == count)
        case _:
            return _where(pair, index, rng)


def _exists(pair: tuple[LabCandidate, LabCandidate], index: int, rng: np.random.Generator) -> Lesson:
    colour, shape = _probe(pair[index], rng)
    is_there = any((thing.colour, thing.shape) == (colour, shape) for thing in pair[index].scene.things)
    return _lesson("existence", f"Is there a {colour} {shape} in image {index + 1}?", is_there)


def _where(pair: tuple[LabCandidate, LabCandidate], index: int, rng: np.random.Generator) -> Lesson:
    things = pair[index].scene.things
    shapes = {thing.shape for thing in things}
    if len(things) != 2 or len(shapes) != 2:
        return _exists(pair, index, rng)
    first, second = things if rng.random() < 0.5 else things[::-1]
    relation = RELATIONS[rng.integers(4)]
    asked = f"Is the {first.shape} {relation} the {second.shape} in image {index + 1}?"
    return _lesson("position", asked, holds(relation, first.centre, second.centre))


def _probe(candidate: LabCandidate, rng: np.random.Generator) -> tuple[Colour, Shape]:
    """A colour and a shape, half of the time both of one thing, else recombined from the picture or drawn."""
    things = candidate.scene.things
    thing, other = (things[rng.integers(len(things))] for _ in range(2))
    if rng.random() < 0.5:
        return thing.colour, thing.shape
    if rng.random() < 0.5 and other != thing:
        return thing.colour, other.shape
    return COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]


def _quality(pair: tuple[LabCandidate, LabCandidate], rng: np.random.Generator) -> Lesson:
    index = int(rng.integers(2))
    adjective, _, fault = QUALITIES[rng.integers(3)]
    return _lesson("quality", f"Is image {index + 1} {adjective}?", pair[index].severity(fault) < 0.15)


def _which_is_cleaner(pair: tuple[LabCandidate, LabCandidate], rng: np.random.Generator) -> Lesson:
    faulty = [quality for quality in QUALITIES if pair[0].severity(quality[2]) != pair[1].severity(quality[2])]
    if not faulty:
        return _quality(pair, rng)
    this = int(rng.integers(2))
    _, comparative, fault = faulty[rng.integers(len(faulty))]
    question = f"Is image {this + 1} {comparative} than image {2 - this}?"
    return _lesson("quality compared", question, pair[this].severity(fault) < pair[1 - this].severity(fault))


def _caption(pair: tuple[LabCandidate, LabCandidate], rng: np.random.Generator) -> Lesson:
    index = int(rng.integers(2))
    return Lesson("caption", f"What does image {index + 1} show?", describe(pair[index]))
