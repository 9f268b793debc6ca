"""Several dimensions of the same media, judged in one call: alignment, structure, aesthetics, ..."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from rewarddance.core.errors import UsageError
from rewarddance.core.types import Judgement, JudgementRequest
from rewarddance.rewards.instructions import load_instruction
from rewarddance.rewards.protocol import ReferenceMode


@runtime_checkable
class Judge(Protocol):
    """The part of a reward model that is asked here; see `RewardModel.judge`."""

    def judge(
        self, requests: Sequence[JudgementRequest], *, reference_mode: ReferenceMode | None = None
    ) -> list[Judgement]:
        """One judgement a request, in order."""


def judge_dimensions(
    model: Judge,
    requests: Sequence[JudgementRequest],
    instructions: Sequence[str | Path],
    reference_mode: ReferenceMode | None = None,
) -> list[dict[str, Judgement]]:
    """Every request by every one of several criteria; media are decoded once for all of them.

    Args:
        model: The reward model.
        requests: What to judge, against what; they name no criteria of their own.
        instructions: Names or files of criteria, each once. A name never reads a file of the user's.
        reference_mode: Show several reference images in one question or one by one; None for the model's own.

    Returns:
        One mapping a request, in order: from the criteria's name to the judgement. A failed one has a status and does
        not affect the others.

    Raises:
        UsageError: No criteria, an unknown name, the same name twice, or a request with criteria of its own.
    """
    names = [load_instruction(one).name if isinstance(one, Path) else one for one in instructions]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"give each of the criteria to judge by once; got {', '.join(names) or 'none'}")
    if any(request.instruction is not None for request in requests):
        raise UsageError("a request names criteria of its own; leave them out, or judge it without a list of criteria")
    # The criteria of one request stand together, so that its media are still at hand.
    asked = [replace(request, instruction=one) for request in requests for one in instructions]
    judgements = model.judge(asked, reference_mode=reference_mode)
    if len(judgements) != len(asked):
        raise UsageError(f"the model gave {len(judgements)} judgements to {len(asked)} requests; it must give one each")
    starts = range(0, len(asked), len(names))
    return [dict(zip(names, judgements[start : start + len(names)], strict=True)) for start in starts]
