"""How a model is asked for its reasons."""

import math
from dataclasses import dataclass
from typing import Literal

from rewarddance.core.errors import UsageError

Format = Literal["answer_first", "reason_first"]
"""Whether the answer stands before its rationale, and is read after one token, or behind it and depends on it."""


@dataclass(frozen=True, slots=True)
class ReasoningSettings:
    """How reasons are asked for.

    Attributes:
        format: `reason_first` reads the answer after the rationale; `answer_first` reads it at once, and the rationale
            that follows changes nothing.
        samples: Rationales of each question, whose probabilities of yes are averaged; 1 for `answer_first`.
        temperature: Of the tokens; 0 takes the most probable one.
        max_tokens: Longest rationale.
        seed: Decides what is drawn.

    Raises:
        UsageError: Values that do not fit together.
    """

    format: Format = "reason_first"
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_tokens < 1:
            raise UsageError("reasoning needs at least one sample of at least one token")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"the temperature of rationales is {self.temperature}; give 0 or more")
        if self.samples > 1 and (self.temperature == 0 or self.format == "answer_first"):
            raise UsageError(
                "several rationales of one question need reason_first and a temperature above 0; "
                "otherwise they all give the same answer"
            )
