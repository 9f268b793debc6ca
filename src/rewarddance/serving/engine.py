"""Batches of work on the reward model; the only place that calls the model.

A failure of the machine (out of memory, a broken kernel) hits every request of a batch. The batch is therefore halved
until the request that causes it stands alone: it is refused, and its neighbours are answered.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from rewarddance.core.media import MediaLimits
from rewarddance.core.types import Judgement, Ranking, Status
from rewarddance.rewards.instructions import instruction_names
from rewarddance.serving.device_errors import has_lost_device
from rewarddance.serving.refusals import RefusalCode, RefusedError
from rewarddance.serving.work import ChatWork, JudgeWork, NextToken, RankWork, Work

if TYPE_CHECKING:
    from rewarddance.rewards.protocol import RewardModel

_log = logging.getLogger(__name__)

Answer = Judgement | Ranking | NextToken

_Some = TypeVar("_Some", bound=Work)

_REFUSALS: Mapping[Status, RefusalCode] = {
    Status.UNREADABLE_MEDIA: RefusalCode.UNREADABLE_MEDIA,
    Status.TOO_LONG: RefusalCode.TOO_LONG,
    Status.NON_FINITE: RefusalCode.NON_FINITE,
    Status.FAILED: RefusalCode.FAILED,
}


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the service has to know of a model.

    Attributes:
        name: What answers call it; its fingerprint.
        instructions: Names of criteria that a request may ask for.
        needs_reference: Whether a judgement is always against a reference image.
        can_chat: Whether the model answers with a token; a scalar model does not.
    """

    name: str
    instructions: frozenset[str]
    needs_reference: bool
    can_chat: bool


@runtime_checkable
class Engine(Protocol):
    """A reward model behind the queue.

    Attributes:
        lost_device: Set when the engine cannot use its device any more: every request would fail from now on.
    """

    @property
    def facts(self) -> EngineFacts:
        """What the service has to know of the model."""

    @property
    def lost_device(self) -> threading.Event: ...  # noqa: D102

    def run(self, works: Sequence[Work]) -> list[Answer | RefusedError]:
        """One answer a work, in order; all works are of one lane."""

    def close(self) -> None:
        """Give back what the engine holds, from any thread; answers of a batch that runs are not wanted any more."""


@dataclass(frozen=True, slots=True)
class ModelEngine:
    """A reward model in this process; see `engine_process` for one that is not.

    Attributes:
        model: The reward model.
        name: See `EngineFacts`.
        instructions: See `EngineFacts`.
        media: Limits of every image of a chat completion.
        lost_device: See `Engine`.
    """

    model: "RewardModel"
    name: str
    instructions: frozenset[str]
    media: MediaLimits
    lost_device: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, model: "RewardModel", name: str, media: MediaLimits) -> "ModelEngine":
        """An engine that judges by the library's criteria and by the model's own."""
        # Here and below: torch comes with the model, so that the service answers "not ready" long before.
        from rewarddance.rewards.paradigm import Paradigm

        own = (model.record.instruction.name,) if isinstance(model, Paradigm) else ()
        return cls(model, name, frozenset((*instruction_names(), *own)), media)

    @property
    def facts(self) -> EngineFacts:
        """See `Engine`."""
        kind = self.model.kind
        return EngineFacts(self.name, self.instructions, needs_reference=kind == "pairwise", can_chat=kind != "scalar")

    def close(self) -> None:
        """Nothing to do: the model goes with the process."""

    def run(self, works: Sequence[Work]) -> list[Answer | RefusedError]:
        """One answer a work, in order; all works are of one lane."""
        match works[0]:
            case JudgeWork():
                return self._isolated(self._judge, [work for work in works if isinstance(work, JudgeWork)])
            case RankWork():
                return self._isolated(self._rank, [work for work in works if isinstance(work, RankWork)])
            case ChatWork():
                return self._isolated(self._chat, [work for work in works if isinstance(work, ChatWork)])

    def _judge(self, works: Sequence[JudgeWork]) -> list[Answer | RefusedError]:
        judgements = self.model.judge([work.request for work in works], works[0].order_mode)
        return [_answer(judgement) for judgement in judgements]

    def _rank(self, works: Sequence[RankWork]) -> list[Answer | RefusedError]:
        return [self.model.rank(work.prompt, work.candidates, work.instruction) for work in works]

    def _chat(self, works: Sequence[ChatWork]) -> list[Answer | RefusedError]:
        from rewarddance.serving.next_token import next_tokens

        return [*next_tokens(self.model.backbone, works, self.media)]

    def _isolated(
        self, run: Callable[[Sequence[_Some]], list[Answer | RefusedError]], works: Sequence[_Some]
    ) -> list[Answer | RefusedError]:
        try:
            return run(works)
        except Exception as error:
            # The service outlives whatever one request does to the model; the log keeps what happened.
            if has_lost_device(error):
                self.lost_device.set()
            if len(works) == 1:
                _log.exception("the model failed on one request")
                return [RefusedError(RefusalCode.ENGINE_FAILED)]
        half = len(works) // 2
        return self._isolated(run, works[:half]) + self._isolated(run, works[half:])


def _answer(judgement: Judgement) -> Judgement | RefusedError:
    return judgement if judgement.is_ok else RefusedError(_REFUSALS.get(judgement.status, RefusalCode.FAILED))
