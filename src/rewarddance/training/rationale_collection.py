"""A teacher writes rationales for comparisons whose choice is known.

The teacher is any callable from comparisons to replies as they come; a service is one (`served_teacher`), the lab has
another. Every reply is stored before the next is waited for; what is stored is not asked for again.

Source:
    RewardDance, arXiv:2509.08826, section 3.3: rationales for comparisons, answer first and reason first.
    RationalRewards, arXiv:2604.11626: the teacher is told the known choice, and rationales that do not lead a reader
    to it are left out (`rationale_filter`).
    Differs: sentences that state the choice are taken out, so that a rationale can only convince by its reasons; and
    one whose names of the two media cannot be exchanged for certain is left out, because half of the time a student
    sees them in the other order.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rewarddance.core.errors import ModelError
from rewarddance.core.rationale_text import can_swap_media
from rewarddance.core.types import Comparison
from rewarddance.core.verdicts import without_verdicts
from rewarddance.data.rationale_exchanges import Exchange, ExchangeStore, Reply, exchange_key

Teacher = Callable[[Sequence[Comparison]], Iterable[tuple[int, Reply]]]
"""From judged comparisons to replies as they come, each with its comparison's place; the text is the rationale."""

DEFAULT_PATIENCE = 20

_ABOUT_THE_QUESTION = "rejected"
"""A refusal of what was sent, such as an image that is too large; by a service that has answered others, it says
nothing of the next question."""


@dataclass(frozen=True, slots=True)
class Collection:
    """What a teacher wrote.

    Attributes:
        rationales: By comparison id, without sentences that state the choice.
        failures: Kind of failure by comparison id.
        unswappable: Comparisons whose rationale names a medium in words that cannot change places, and is left out.
        unanchored: Comparisons without a choice to explain: not judged, or ties.
        asked: Replies that this run brought; the others were stored before.
    """

    rationales: dict[str, str]
    failures: dict[str, str]
    unswappable: frozenset[str]
    unanchored: int
    asked: int


def collect_rationales(
    teacher: Teacher,
    name: str,
    comparisons: Sequence[Comparison],
    store: ExchangeStore,
    patience: int = DEFAULT_PATIENCE,
    on_progress: Callable[[int, int], None] | None = None,
) -> Collection:
    """Ask a teacher about every comparison for which no reply is stored.

    Args:
        teacher: Writes rationales.
        name: What identifies the teacher with its words and settings; another name asks everything anew.
        comparisons: Those without a choice, and ties, are left out.
        store: Where every exchange goes.
        patience: Failures in a row, none of them about its own comparison, after which the teacher is taken to be gone.
        on_progress: Called with the number of comparisons that are done, and of all.

    Raises:
        ModelError: The teacher gives no replies any more; the same call goes on later.
    """
    anchored = [one for one in comparisons if one.choice in ("first", "second")]
    keys = [teacher_key(name, comparison) for comparison in anchored]
    replies = [store.find("teacher", key) for key in keys]
    # What was never asked comes first: those that failed before may fail again, and must not stand in its way.
    missing = sorted(
        (place for place, reply in enumerate(replies) if not _is_final(reply)),
        key=lambda place: replies[place] is not None,
    )
    has_answered = any(map(_is_final, replies))
    failed_in_a_row = 0
    asked = 0
    for number, reply in teacher([anchored[place] for place in missing]):
        place = missing[number]
        store.add(Exchange("teacher", keys[place], anchored[place].id, name, reply))
        asked += 1
        has_answered |= reply.is_final
        failed_in_a_row = failures_in_a_row(failed_in_a_row, reply, has_answered)
        refuse_silence(f"teacher {name}", failed_in_a_row, patience, reply)
        if on_progress is not None:
            on_progress(len(anchored) - len(missing) + asked, len(anchored))
    return _collected(anchored, keys, store, len(comparisons) - len(anchored), asked)


def teacher_key(name: str, comparison: Comparison) -> str:
    """Hash of everything that the teacher's reply to a comparison depends on."""
    media = [comparison.first, comparison.second, *([comparison.source_media] if comparison.source_media else [])]
    shown = [one.sha256 or str(one.path) for one in media]
    return exchange_key(name, comparison.id, comparison.prompt, comparison.choice, *shown)


def failures_in_a_row(before: int, reply: Reply, has_answered: bool) -> int:
    """Counts on; what says nothing about who is asked does not count.

    Args:
        before: Failures in a row until now.
        reply: The next one.
        has_answered: Whether they have answered anything, this time or earlier.
    """
    if reply.tries == 0 or (has_answered and reply.failure == _ABOUT_THE_QUESTION):
        return before
    return 0 if reply.is_final else before + 1


def refuse_silence(who: str, failed_in_a_row: int, patience: int, last: Reply) -> None:
    """Stop asking somebody who has stopped answering.

    Raises:
        ModelError: As many failures in a row as patience allows, or one that concerns every question alike.
    """
    if last.failure == "not_allowed" or failed_in_a_row >= patience:
        raise ModelError(
            f"{who} gave no reply {failed_in_a_row} times in a row, at last: {last.failure}: {last.message}; "
            "everything so far is stored: the same command goes on from here"
        )


def _is_final(reply: Reply | None) -> bool:
    return reply is not None and reply.is_final


def _collected(
    anchored: Sequence[Comparison], keys: Sequence[str], store: ExchangeStore, unanchored: int, asked: int
) -> Collection:
    rationales: dict[str, str] = {}
    failures: dict[str, str] = {}
    unswappable: set[str] = set()
    for comparison, key in zip(anchored, keys, strict=True):
        reply = store.find("teacher", key)
        text = None if reply is None or reply.text is None else without_verdicts(reply.text)
        if text and not can_swap_media(text):
            unswappable.add(comparison.id)
        elif text:
            rationales[comparison.id] = text
        elif reply is None or reply.failure is not None:
            failures[comparison.id] = "no_reply" if reply is None or reply.failure is None else reply.failure
        else:
            failures[comparison.id] = "no_reasons"
    return Collection(rationales, failures, frozenset(unswappable), unanchored, asked)
