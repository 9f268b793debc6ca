"""The lab's prompts: GenEval's six kinds, as text and as structure, in and out of domain.

Source: kinds after GenEval (Ghosh et al., arXiv:2310.11513), in a world of six colours and four shapes.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Kind = Literal["single", "two", "counting", "colour", "position", "binding"]
Colour = Literal["red", "green", "blue", "yellow", "purple", "cyan"]
Shape = Literal["circle", "square", "triangle", "cross"]
Relation = Literal["left of", "right of", "above", "below"]
Domain = Literal["in", "out"]

KINDS: tuple[Kind, ...] = get_args(Kind)
COLOURS: tuple[Colour, ...] = get_args(Colour)
SHAPES: tuple[Shape, ...] = get_args(Shape)
RELATIONS: tuple[Relation, ...] = get_args(Relation)
NUMBER_WORDS = {1: "a", 2: "two", 3: "three", 4: "four"}
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}

HELD_OUT_COMBINATIONS: frozenset[tuple[Colour, Shape]] = frozenset(
    {("red", "cross"), ("green", "triangle"), ("blue", "circle"), ("purple", "square"), ("cyan", "triangle")}
)
"""Colour and shape pairs that no comparison in the domain asks for or shows on purpose."""

HELD_OUT_COUNT = 4
"""The count that no prompt in the domain asks for."""

_NOUNS = "|".join([*SHAPES, *PLURALS.values()])
_PHRASE = re.compile(rf"(?P<count>a|two|three|four) (?:(?P<colour>{'|'.join(COLOURS)}) )?(?P<shape>{_NOUNS})")


@dataclass(frozen=True, slots=True)
class Described:
    """Something that a prompt asks for: `count` things of one shape and, perhaps, one colour."""

    shape: Shape
    colour: Colour | None = None
    count: int = 1

    @property
    def text(self) -> str:
        """The noun phrase, such as "three red circles"."""
        words = [NUMBER_WORDS[self.count], self.colour, PLURALS[self.shape] if self.count > 1 else self.shape]
        return " ".join(word for word in words if word)


@dataclass(frozen=True, slots=True)
class LabPrompt:
    """A prompt of the lab's grammar.

    Attributes:
        kind: Which of GenEval's kinds it is.
        described: What it asks for, in reading order: one or two phrases.
        relation: Where the first thing stands to the second; None for most kinds.
    """

    kind: Kind
    described: tuple[Described, ...]
    relation: Relation | None = None

    @property
    def text(self) -> str:
        """The prompt as a person would type it."""
        joint = f" {self.relation} " if self.relation else " and "
        return joint.join(phrase.text for phrase in self.described)

    @property
    def things(self) -> tuple[tuple[Colour | None, Shape], ...]:
        """Every single thing asked for, counts unrolled."""
        return tuple((phrase.colour, phrase.shape) for phrase in self.described for _ in range(phrase.count))


def parse_prompt(text: str) -> LabPrompt:
    """Read a prompt back into its structure.

    Raises:
        ValueError: The text is not of the lab's grammar.
    """
    found = list(_PHRASE.finditer(text))
    phrases = tuple(
        Described(_singular(match["shape"]), match["colour"], _count(match["count"]))  # type: ignore[arg-type]
        for match in found
    )
    relation = next((name for name in RELATIONS if f" {name} " in text), None)
    prompt = LabPrompt(_kind(phrases, relation), phrases, relation) if 1 <= len(phrases) <= 2 else None
    if prompt is None or prompt.text != text:
        raise ValueError(f"not a prompt of the lab's world: {text!r}; for example 'a red circle left of a square'")
    return prompt


def sample_prompt(rng: np.random.Generator, domain: Domain = "in", kind: Kind | None = None) -> LabPrompt:
    """Draw a prompt; kinds are equally likely.

    Args:
        rng: Source of randomness.
        domain: `in` avoids the held-out combinations and the held-out count; `out` uses one of them.
        kind: Fix the kind.
    """
    kind = kind or KINDS[rng.integers(len(KINDS))]
    while True:
        prompt = _draw(rng, kind)
        if is_in_domain(prompt) == (domain == "in"):
            return prompt
        if domain == "out" and kind in ("single", "two", "position"):
            return prompt  # nothing to hold out in a prompt without colour or count: its pictures carry unseen faults


def is_in_domain(prompt: LabPrompt) -> bool:
    """Whether the prompt asks for no held-out combination and no held-out count."""
    return all(
        (phrase.colour, phrase.shape) not in HELD_OUT_COMBINATIONS and phrase.count != HELD_OUT_COUNT
        for phrase in prompt.described
    )


def _draw(rng: np.random.Generator, kind: Kind) -> LabPrompt:
    shapes = [SHAPES[index] for index in rng.permutation(len(SHAPES))[:2]]
    colours = [COLOURS[index] for index in rng.permutation(len(COLOURS))[:2]]
    match kind:
        case "single":
            return LabPrompt(kind, (Described(shapes[0]),))
        case "colour":
            return LabPrompt(kind, (Described(shapes[0], colours[0]),))
        case "counting":
            colour = colours[0] if rng.random() < 0.5 else None
            return LabPrompt(kind, (Described(shapes[0], colour, int(rng.integers(2, 5))),))
        case "two":
            return LabPrompt(kind, (Described(shapes[0]), Described(shapes[1])))
        case "binding":
            second = shapes[1] if rng.random() < 0.7 else shapes[0]
            return LabPrompt(kind, (Described(shapes[0], colours[0]), Described(second, colours[1])))
        case "position":
            relation = RELATIONS[rng.integers(len(RELATIONS))]
            return LabPrompt(kind, (Described(shapes[0]), Described(shapes[1])), relation)


def _kind(phrases: tuple[Described, ...], relation: Relation | None) -> Kind:
    if relation:
        return "position"
    if len(phrases) == 2:
        return "binding" if phrases[0].colour else "two"
    if phrases and phrases[0].count > 1:
        return "counting"
    return "colour" if phrases and phrases[0].colour else "single"


def _singular(shape: str) -> str:
    return next((name for name, plural in PLURALS.items() if plural == shape), shape)


def _count(word: str) -> int:
    return next(count for count, name in NUMBER_WORDS.items() if name == word)
