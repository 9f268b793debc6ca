"""What is wrong with a picture of the lab, in words: read from its pixels by the gold judge's own eyes.

The words are few, and most are those of the base models' captions: "no red circle", "a blue circle for a red circle",
"an extra red square", "the circle not left of the square", "blur", "much noise", "low contrast".
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
from jaxtyping import Float

from rewarddance.lab.gold import Seen, credit_of, judge_sight, look
from rewarddance.lab.prompts import Colour, LabPrompt, Shape
from rewarddance.lab.world import holds

FaultKind = Literal["missing", "replaced", "wrong_colour", "wrong_shape", "extra", "misplaced"]

QUALITY_FAULTS = (("blur", "much blur"), ("noise", "much noise"), ("low contrast", "very low contrast"))
COMPARATIVES = ("sharper", "cleaner", "richer in contrast")
"""Of sharpness, cleanness and contrast: how a lack is called, by degree, and how the better picture is."""

_NOTICED, _STRONG = 0.15, 0.5
"""How far below 1 sharpness, cleanness or contrast lies when it is mentioned, and when it is called much."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and how it is said after "has"."""

    kind: FaultKind
    words: str


@dataclass(frozen=True, slots=True)
class Report:
    """What is to be said of one picture.

    Attributes:
        content: What it shows wrongly.
        qualities: Sharpness, cleanness and contrast, each in [0, 1], in this order.
    """

    content: tuple[Fault, ...]
    qualities: tuple[float, float, float]

    @property
    def degrees(self) -> tuple[int, ...]:
        """Of each quality how bad it is: 0 not mentioned, 1 mentioned, 2 much."""
        return tuple((1.0 - value > _NOTICED) + (1.0 - value > _STRONG) for value in self.qualities)

    @property
    def words(self) -> list[str]:
        """Everything that is wrong, as it is said after "has": first what is shown, then how well."""
        fates = zip(self.degrees, QUALITY_FAULTS, strict=True)
        return [*(fault.words for fault in self.content), *(words[degree - 1] for degree, words in fates if degree)]


def report_on(pixels: Float[np.ndarray, "side side 3"], prompt: LabPrompt) -> Report:
    """Look at a picture, float RGB in [0, 1], made for a prompt."""
    sight = look(pixels)
    gold = judge_sight(pixels, sight, prompt)
    return Report(tuple(_content_faults(sight[0], prompt)), (gold.sharpness, gold.cleanness, gold.contrast))


def _content_faults(seen: list[Seen], prompt: LabPrompt) -> list[Fault]:
    wanted = prompt.things
    chosen = _assigned(seen, prompt)
    faults = [_difference(thing, want) for thing, want in zip(chosen, wanted, strict=True)]
    found = [fault for fault in faults if fault is not None]
    extra = [thing for thing in seen if not any(thing is one for one in chosen)]
    found += [Fault("extra", f"an extra {_named(thing.colour, thing.shape)}") for thing in extra]
    if prompt.relation and len(chosen) == 2 and chosen[0] and chosen[1] and not found:
        first, second = chosen[0], chosen[1]
        if not holds(prompt.relation, first.centre, second.centre):
            found.append(Fault("misplaced", f"the {first.shape} not {prompt.relation} the {second.shape}"))
    return found


def _assigned(seen: list[Seen], prompt: LabPrompt) -> tuple[Seen | None, ...]:
    """For everything asked for the seen thing that stands for it, by the assignment that earns most."""
    wanted = prompt.things
    slots: list[Seen | None] = [*seen, *[None] * max(0, len(wanted) - len(seen))]
    if len(slots) > 6:
        return (None,) * len(wanted)

    def credit(order: tuple[int, ...]) -> float:
        chosen = [slots[index] for index in order]
        earned = sum(credit_of(thing, colour, shape) for thing, (colour, shape) in zip(chosen, wanted, strict=True))
        first, second = (*chosen, None)[:2]
        stands = prompt.relation and first and second and holds(prompt.relation, first.centre, second.centre)
        return earned + bool(stands)

    best = max(permutations(range(len(slots)), len(wanted)), key=credit)
    return tuple(slots[index] for index in best)


def _difference(thing: Seen | None, want: tuple[Colour | None, Shape]) -> Fault | None:
    colour, shape = want
    asked = _named(colour, shape)
    if thing is None:
        return Fault("missing", f"no {asked}")
    right_colour, right_shape = colour is None or thing.colour == colour, thing.shape == shape
    if right_colour and right_shape:
        return None
    kind: FaultKind = "wrong_shape" if right_colour else "wrong_colour" if right_shape else "replaced"
    return Fault(kind, f"a {_named(thing.colour, thing.shape)} for a {asked}")


def _named(colour: Colour | None, shape: Shape | None) -> str:
    return " ".join(word for word in (colour, shape or "thing") if word)
