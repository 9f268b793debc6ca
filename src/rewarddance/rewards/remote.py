"""A reward model behind a service: judged, compared and ranked with like one in process, but without a gradient.

What is asked is decided here, from the record of the model (`rewarddance.json`): the question's words, the criteria,
both orders or one, the answers' tokens. What a served model answers is decided by whoever started the service: other
weights, another chat template or another image size give other scores without a word. `parity` tells.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rewarddance.core.errors import ModelError, UsageError
from rewarddance.core.media import MediaSource
from rewarddance.core.types import Judgement, JudgementRequest, Ranking
from rewarddance.rewards.answers import AnswerTokens
from rewarddance.rewards.chat_endpoint import ChatEndpoint, EndpointSettings
from rewarddance.rewards.folder import RECORD_NAME, ModelRecord, parse_record
from rewarddance.rewards.instructions import load_instruction
from rewarddance.rewards.pairwise import PairwiseModel
from rewarddance.rewards.paradigm import Paradigm
from rewarddance.rewards.pointwise import PointwiseModel
from rewarddance.rewards.protocol import OrderMode, ReferenceMode, RewardKind, RewardModel
from rewarddance.rewards.ranking import rank_candidates
from rewarddance.rewards.reasoning_settings import ReasoningSettings
from rewarddance.rewards.served_backbone import DEFAULT_SERVED, ServedBackbone, ServedSettings

_UNKNOWN_ANSWERS = AnswerTokens((), ())


class RemoteRewardModel:
    """Judges over HTTP; the part of `RewardModel` that needs no weights."""

    def __init__(self, endpoint: ChatEndpoint, record: ModelRecord, settings: ServedSettings = DEFAULT_SERVED) -> None:
        """Send nothing yet.

        Args:
            endpoint: The service; the caller closes it.
            record: How the model is asked.
            settings: How log-odds are got.

        Raises:
            UsageError: A scalar model, whose head no service of this protocol has.
        """
        if record.kind == "scalar":
            raise UsageError("a scalar model has a head of its own, which no chat service runs; score it in process")
        answers = record.answers if record.answers.label_ids else None
        backbone = ServedBackbone(endpoint, answers, settings)
        self.kind: RewardKind = record.kind
        self.record = record
        self.training: Mapping[str, object] | None = record.training
        self.endpoint = endpoint
        self._model = (PairwiseModel if record.kind == "pairwise" else PointwiseModel)(backbone, record)

    def judge(
        self,
        requests: Sequence[JudgementRequest],
        order_mode: OrderMode | None = None,
        reference_mode: ReferenceMode | None = None,
        reasoning: ReasoningSettings | None = None,
    ) -> list[Judgement]:
        """One judgement a request, in order; see `RewardModel.judge`.

        A question that the service does not answer in all its tries is a failed judgement that names the cause.

        Raises:
            UsageError: Reasons were asked for, which a served model does not write.
        """
        return self._model.judge(requests, order_mode, reference_mode, reasoning)

    def compare(
        self,
        prompt: str,
        candidate: MediaSource,
        reference_image: MediaSource | tuple[MediaSource, ...] | list[MediaSource],
        instruction: str | Path | None = None,
        source_media: MediaSource | None = None,
    ) -> Judgement:
        """How much better the candidate is than the reference image."""
        request = JudgementRequest(prompt, candidate, reference_image, instruction, source_media=source_media)
        return self.judge([request])[0]

    def rank(
        self,
        prompt: str,
        candidates: Sequence[MediaSource],
        instruction: str | Path | None = None,
        source_media: MediaSource | None = None,
    ) -> Ranking:
        """Candidates by win count; see `rank_candidates`."""
        return rank_candidates(self._model, prompt, candidates, instruction, source_media)

    def close(self) -> None:
        """Let go of the connections."""
        self.endpoint.close()


def connect_reward_model(
    settings: EndpointSettings,
    record: Path | str | None = None,
    kind: RewardKind | None = None,
    served: ServedSettings = DEFAULT_SERVED,
) -> RemoteRewardModel:
    """A reward model behind a service; nothing is sent yet.

    Args:
        settings: Which service, and how patiently it is asked.
        record: The folder of the model that is served, or its `rewarddance.json` alone; None for a model that was
            never trained as a reward model, which is asked zero-shot.
        kind: Paradigm of an untrained model, pairwise if left out; of a trained one, what it must be.
        served: How log-odds are got.

    Raises:
        ModelError: The record cannot be read.
        UsageError: `kind` does not fit, or the key is missing.
    """
    found = ModelRecord(kind or "pairwise", load_instruction("overall"), _UNKNOWN_ANSWERS)
    if record is not None:
        found = _read(Path(record))
    if kind is not None and kind != found.kind:
        raise UsageError(f"{record} is a {found.kind} model, not a {kind} one; leave the kind out")
    return RemoteRewardModel(ChatEndpoint(settings), found, served)


def record_of(model: RewardModel) -> ModelRecord:
    """How a model in process is asked, so that a served copy is asked the same.

    Raises:
        ModelError: It is no model of this package.
    """
    if not isinstance(model, Paradigm):
        raise ModelError(f"{type(model).__name__} keeps no record of how it is asked")
    return model.record


def _read(path: Path) -> ModelRecord:
    file = path / RECORD_NAME if path.is_dir() else path
    if not file.is_file():
        raise ModelError(f"{file} does not exist; give the folder of the served model, or its {RECORD_NAME}")
    # The weights may be elsewhere, so the hashes of the other files are not checked.
    return parse_record(file)
