"""Only rationales that lead a reader to the known choice are kept.

The reader sees the rationale and nothing else: no image, no choice, no prompt. What it cannot tell, or tells wrongly,
was not said well enough to teach anything, or is wrong.

Source:
    RationalRewards, arXiv:2604.11626: rationales from which the preference cannot be predicted again are dropped.
    Differs: the reader is shown no images, which would let it find the choice by itself.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rewarddance.core.types import Choice, Comparison
from rewarddance.core.verdicts import without_thinking
from rewarddance.data.rationale_exchanges import Exchange, ExchangeStore, Reply, exchange_key
from rewarddance.training.rationale_collection import DEFAULT_PATIENCE, failures_in_a_row, refuse_silence

RationaleJudge = Callable[[Sequence[str]], Iterable[tuple[int, Reply]]]
"""From rationales to replies as they come, each with its place; the text is the number of the better image, or 0."""

Verdict = Literal["kept", "contradicted", "undecided", "failed"]

_NUMBER = re.compile(r"\W*(?:(?:image|clip|video|picture)\W*)?([012])\W*", re.IGNORECASE)
_CHOICES: Mapping[str, Choice | None] = {"1": "first", "2": "second", "0": None}


@dataclass(frozen=True, slots=True)
class Filtered:
    """What a reader made of rationales.

    Attributes:
        verdicts: By comparison id.
        asked: Replies that this run brought; the others were stored before.
    """

    verdicts: dict[str, Verdict]
    asked: int

    @property
    def kept(self) -> frozenset[str]:
        """Comparisons whose rationale leads to the known choice."""
        return frozenset(name for name, verdict in self.verdicts.items() if verdict == "kept")

    def count(self, verdict: Verdict) -> int:
        """Rationales that ended so."""
        return sum(found == verdict for found in self.verdicts.values())

    @property
    def share_kept(self) -> float | None:
        """Of the rationales that were read; those that could not be are in neither number. None when none was read."""
        read = len(self.verdicts) - self.count("failed")
        return None if read == 0 else self.count("kept") / read


def filter_rationales(
    judge: RationaleJudge,
    name: str,
    comparisons: Sequence[Comparison],
    rationales: Mapping[str, str],
    store: ExchangeStore,
    patience: int = DEFAULT_PATIENCE,
    on_progress: Callable[[int, int], None] | None = None,
) -> Filtered:
    """Let a judge read every rationale alone and predict the choice.

    Args:
        judge: Reads rationales.
        name: What identifies the judge with its words; another name asks everything anew.
        comparisons: With known choices.
        rationales: By comparison id; comparisons without one are left out.
        store: Where every exchange goes; what is stored is not asked again.
        patience: Failures in a row after which the judge is taken to be gone.
        on_progress: Called with the number of rationales that are done, and of all.

    Raises:
        ModelError: The judge gives no replies any more; the same call goes on later.
    """
    read = [comparison for comparison in comparisons if comparison.id in rationales]
    keys = [exchange_key(name, rationales[comparison.id]) for comparison in read]
    found = [store.find("judge", key) for key in keys]
    # The same words are read once, whichever comparisons they are about.
    places = {keys[place]: place for place, reply in enumerate(found) if reply is None or not reply.is_final}
    # As with the teacher: what was never asked comes first.
    missing = sorted(places.values(), key=lambda place: found[place] is not None)
    has_answered = len(missing) < len(set(keys))
    failed_in_a_row = 0
    asked = 0
    for number, reply in judge([rationales[read[place].id] for place in missing]):
        place = missing[number]
        store.add(Exchange("judge", keys[place], read[place].id, name, reply))
        asked += 1
        has_answered |= reply.is_final
        failed_in_a_row = failures_in_a_row(failed_in_a_row, reply, has_answered)
        refuse_silence(f"judge {name}", failed_in_a_row, patience, reply)
        if on_progress is not None:
            on_progress(len(read) - len(missing) + asked, len(read))
    verdicts = {
        comparison.id: _verdict(store.find("judge", key), comparison.choice)
        for comparison, key in zip(read, keys, strict=True)
    }
    return Filtered(verdicts, asked)


def _verdict(reply: Reply | None, choice: Choice | None) -> Verdict:
    if reply is None or reply.text is None:
        return "failed"
    number = _NUMBER.fullmatch(without_thinking(reply.text))
    predicted = None if number is None else _CHOICES[number[1]]
    if predicted is None:
        return "undecided"
    return "kept" if predicted == choice else "contradicted"
