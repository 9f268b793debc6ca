"""The lab's embedded teacher and the lab's reader of rationales: both as others are, but without a service.

The teacher looks at the pixels as the gold judge does and writes what is true of them, whatever people chose: "image 1
has no red circle and much blur. image 2 has everything. image 2 is cleaner." A share of its rationales can be made
wrong: they argue for the image that was not chosen, as a teacher's do that mixes the images up or sees what is not
there. The reader knows the words and what each fault weighs, and sees nothing else.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from rewarddance.core.errors import MediaError, UsageError
from rewarddance.core.media import load_image
from rewarddance.core.rationale_text import with_media_swapped
from rewarddance.core.seeding import numpy_rng
from rewarddance.core.types import Comparison, Media
from rewarddance.data.rationale_exchanges import Reply
from rewarddance.lab.faults import COMPARATIVES, QUALITY_FAULTS, Report, report_on
from rewarddance.lab.gold import ALIGNMENT_WEIGHT
from rewarddance.lab.prompts import COLOURS, SHAPES, parse_prompt

_HAS = re.compile(r"image ([12]) has ([^.]*)\.")
_IS = re.compile(r"image ([12]) is ([^.]*)\.")
_NOTHING_WRONG = "everything"
_UNDECIDED = 0.02
"""Difference in estimated gold below which the words do not tell."""

# What a fault costs of alignment, for the two things that most prompts ask for; and what is left of quality.
_COSTS = (("an extra ", 0.35), ("no ", 0.5), ("the ", 0.33))
_REPLACED_COST, _HALF_WRONG_COST = 0.5, 0.3
_LEFT_OF_QUALITY = dict(pair for words in QUALITY_FAULTS for pair in zip(words, (0.68, 0.25), strict=True))
_COMPARED = 0.03
"""Gold that a picture gains by being better in a quality of which both are called alike."""
_VISIBLE = 0.04
"""Difference of a quality above which it is mentioned although both are called alike."""


@dataclass(frozen=True, slots=True)
class LabTeacher:
    """Writes rationales for comparisons of the lab; a `Teacher`.

    Attributes:
        wrong_share: Share in [0, 1] of rationales that argue for the other image.
        seed: Decides which are wrong, and how.
    """

    wrong_share: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """What identifies the teacher with its settings."""
        return f"lab:gold wrong={self.wrong_share:g} seed={self.seed}"

    def __call__(self, comparisons: Sequence[Comparison]) -> Iterator[tuple[int, Reply]]:
        """A reply a comparison, in order.

        Raises:
            UsageError: A prompt is not of the lab's grammar.
        """
        for place, comparison in enumerate(comparisons):
            asked = f"What is wrong with the images for the prompt {comparison.prompt}?"
            try:
                yield place, Reply(asked, self.text(comparison))
            except MediaError as error:
                yield place, Reply(asked, None, "unreadable_media", str(error), is_final=False, tries=0)

    def is_wrong(self, comparison: Comparison) -> bool:
        """Whether this comparison's rationale is one of the wrong ones."""
        return bool(numpy_rng(self.seed, "wrong rationale", comparison.id).random() < self.wrong_share)

    def text(self, comparison: Comparison) -> str:
        """The rationale, true or wrong."""
        try:
            prompt = parse_prompt(comparison.prompt)
        except ValueError as error:
            raise UsageError(f"comparison {comparison.id}: {error}; another teacher explains other data") from None
        first, second = (report_on(_pixels(medium), prompt) for medium in (comparison.first, comparison.second))
        true = describe_pair(first, second)
        if not self.is_wrong(comparison):
            return true
        mixed_up = with_media_swapped(true)
        if read_choice(mixed_up) == ("2" if comparison.choice == "first" else "1"):
            return mixed_up
        return self._invented(comparison)

    def _invented(self, comparison: Comparison) -> str:
        """Faults of the chosen image that are not there."""
        rng = numpy_rng(self.seed, "invented rationale", comparison.id)
        colour, shape = COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]
        faults = [f"no {colour} {shape}", QUALITY_FAULTS[rng.integers(3)][1]]
        return _said(faults, []) if comparison.choice == "first" else _said([], faults)


def describe_picture(report: Report) -> str:
    """What is wrong with a picture, as it is said after "has"."""
    return _listed(report.words)


def describe_both(first: Report, second: Report) -> str:
    """What is wrong with either picture; nothing that it takes both to see."""
    return _said(first.words, second.words)


def describe_pair(first: Report, second: Report) -> str:
    """What is wrong with either picture, and in which qualities one is better although both are called alike."""
    return describe_both(first, second) + _compared(first, second)


def lab_judge(rationales: Sequence[str]) -> Iterator[tuple[int, Reply]]:
    """Reads rationales of the lab and nothing else; a `RationaleJudge`."""
    for place, rationale in enumerate(rationales):
        yield place, Reply(rationale, read_choice(rationale))


def read_choice(rationale: str) -> str:
    """The number of the image that the words speak for; 0 when they do not tell."""
    said = dict(_HAS.findall(rationale))
    if set(said) != {"1", "2"}:
        return "0"
    better = sum((1 if number == "2" else -1) * len(_parts(words)) for number, words in _IS.findall(rationale))
    difference = _estimate(said["2"]) - _estimate(said["1"]) + _COMPARED * better
    if abs(difference) < _UNDECIDED:
        return "0"
    return "2" if difference > 0 else "1"


def _pixels(medium: Media) -> Float[np.ndarray, "side side 3"]:
    return np.asarray(load_image(medium), dtype=float) / 255


def _compared(first: Report, second: Report) -> str:
    """Sentences about qualities of which both pictures are called alike, but are not."""
    sentences = ""
    for number, better, worse in ((1, first, second), (2, second, first)):
        columns = zip(COMPARATIVES, better.qualities, worse.qualities, better.degrees, worse.degrees, strict=True)
        words = [word for word, more, less, here, there in columns if here == there and more - less > _VISIBLE]
        if words:
            sentences += f" image {number} is {_listed(words)}."
    return sentences


def _said(first: Sequence[str], second: Sequence[str]) -> str:
    return f"image 1 has {_listed(first)}. image 2 has {_listed(second)}."


def _listed(phrases: Sequence[str]) -> str:
    if not phrases:
        return _NOTHING_WRONG
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _estimate(faults: str) -> float:
    """Gold as far as the words tell."""
    alignment, quality = 1.0, 1.0
    for phrase in _parts(faults):
        if phrase in _LEFT_OF_QUALITY:
            quality *= _LEFT_OF_QUALITY[phrase]
        elif phrase != _NOTHING_WRONG:
            alignment -= _cost(phrase)
    return ALIGNMENT_WEIGHT * max(0.0, alignment) + (1 - ALIGNMENT_WEIGHT) * quality


def _parts(listed: str) -> list[str]:
    return re.split(r", | and ", listed)


def _cost(phrase: str) -> float:
    for opening, cost in _COSTS:
        if phrase.startswith(opening):
            return cost
    shown, _, asked = phrase.removeprefix("a ").partition(" for a ")
    # One word in common: only the colour or only the shape is wrong.
    return _HALF_WRONG_COST if set(shown.split()) & set(asked.split()) else _REPLACED_COST
