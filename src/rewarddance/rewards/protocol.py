"""What every reward model offers, whatever its paradigm: judging, a differentiable reward, and learning.

Three paradigms implement it (RewardDance, arXiv:2509.08826, Table 7): `pairwise` (generative, Eq. 2),
`pointwise` (generative, section 3.2.3) and `scalar` (a regression head).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rewarddance.core.media import MediaSource
from rewarddance.core.types import Comparison, Judgement, JudgementRequest, Ranking
from rewarddance.rewards.backbones.protocol import Backbone, QuestionBatch
from rewarddance.rewards.reasoning_settings import Format, ReasoningSettings

RewardKind = Literal["pairwise", "pointwise", "scalar"]

OrderMode = Literal["two", "one"]
"""Ask a comparison in both orders and take the preference for a position out, or as the paper does, in one."""

ReferenceMode = Literal["one_by_one", "together"]
"""Against several reference images, ask one question for each and take the mean log-odds, or show all in one."""


@dataclass(frozen=True, slots=True)
class RationaleTargets:
    """What is to be said after each question, for comparisons that are learned with their rationales.

    Attributes:
        token_ids: Token to predict at each of the last positions of a question, which ends with all but the last of
            them; -100 where nothing is learned, and at the answer. Shape (comparisons, positions).
        answer_places: At which of these positions the answer is given, shape (comparisons,).
        is_reason_first: Whether the answer stands behind its rationale, shape (comparisons,). Its log-odds are then
            those of a model that has been told the reasons.
    """

    token_ids: Int[Tensor, "comparisons positions"]
    answer_places: Int[Tensor, " comparisons"]
    is_reason_first: Bool[Tensor, " comparisons"]

    def to(self, device: torch.device) -> "RationaleTargets":
        """The same on a device."""
        return RationaleTargets(
            self.token_ids.to(device), self.answer_places.to(device), self.is_reason_first.to(device)
        )


@dataclass(frozen=True, slots=True)
class TeacherAnswers:
    """What a teacher answered to the comparisons of a batch, in the order shown.

    Attributes:
        log_odds: That the second medium is better, shape (comparisons,); 0 where the teacher gave no answer.
        is_known: Where it gave one, shape (comparisons,).
        is_alone: Where nobody has chosen, so that nothing but the teacher's answer is learned, shape (comparisons,).
    """

    log_odds: Float[Tensor, " comparisons"]
    is_known: Bool[Tensor, " comparisons"]
    is_alone: Bool[Tensor, " comparisons"]

    def to(self, device: torch.device) -> "TeacherAnswers":
        """The same on a device."""
        return TeacherAnswers(self.log_odds.to(device), self.is_known.to(device), self.is_alone.to(device))


@dataclass(frozen=True, slots=True)
class PreparedComparisons:
    """Comparisons as tensors on the CPU, made in a data-loader worker.

    Attributes:
        ids: Record id of each comparison.
        questions: One question a comparison (pairwise), or first media then second media (pointwise, scalar).
        targets: Preference for the second medium in [0, 1], shape (comparisons,).
        weights: Weight of each comparison, shape (comparisons,).
        rationales: What is learned beside the answer; None for the answer alone.
        teacher: Answers of another model to learn from as well; None for none.
    """

    ids: tuple[str, ...]
    questions: QuestionBatch
    targets: Float[Tensor, " comparisons"]
    weights: Float[Tensor, " comparisons"]
    rationales: RationaleTargets | None = None
    teacher: TeacherAnswers | None = None


@dataclass(frozen=True, slots=True)
class LossSettings:
    """How a comparison becomes a loss.

    Attributes:
        label_smoothing: Share in [0, 1) by which hard targets are drawn towards one half.
        answer_weight: Pointwise only: weight of the yes/no cross-entropy beside the Bradley-Terry loss.
        rationale_answer_weight: Share in (0, 1] of the answer in the loss of a comparison that has a rationale.
        teacher_weight: Share in [0, 1] of the divergence from the teacher's answer, where the teacher gave one.
        teacher_temperature: What both log-odds are divided by before they are compared.
    """

    label_smoothing: float = 0.0
    answer_weight: float = 0.1
    rationale_answer_weight: float = 0.1
    teacher_weight: float = 0.5
    teacher_temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class ComparisonLoss:
    """Loss of a batch of comparisons.

    Attributes:
        loss: Weighted loss of each comparison; ln 2 for an uninformed model (without the pointwise extra term).
        log_odds: Log-odds that the second medium is better, shape (comparisons,), without gradient.
    """

    loss: Float[Tensor, " comparisons"]
    log_odds: Float[Tensor, " comparisons"]


@runtime_checkable
class RewardModel(Protocol):
    """A vision-language model that judges media.

    Attributes:
        kind: The paradigm.
        backbone: The vision-language model below.
        training: What it was trained on, in the trainer's words, saved with it; None for an untrained model.
    """

    kind: RewardKind
    backbone: Backbone
    training: Mapping[str, object] | None

    @property
    def module(self) -> nn.Module:
        """Every parameter that is trained or saved: the backbone's model, and the head of a scalar model."""

    def judge(
        self,
        requests: Sequence[JudgementRequest],
        order_mode: OrderMode | None = None,
        reference_mode: ReferenceMode | None = None,
        reasoning: ReasoningSettings | None = None,
    ) -> list[Judgement]:
        """One judgement a request, in order. A failed request has a status and no score.

        Args:
            requests: What to judge, against what.
            order_mode: Ask in both orders or in one; None for the model's own.
            reference_mode: Show several reference images in one question or one by one; None for the model's own.
            reasoning: Ask for rationales as well, before or behind the answer; None for the answer alone.
        """

    def compare(
        self,
        prompt: str,
        candidate: MediaSource,
        reference_image: MediaSource | tuple[MediaSource, ...] | list[MediaSource],
        instruction: str | Path | None = None,
        source_media: MediaSource | None = None,
    ) -> Judgement:
        """How much better `candidate` is than `reference_image` for the prompt."""

    def rank(
        self,
        prompt: str,
        candidates: Sequence[MediaSource],
        instruction: str | Path | None = None,
        source_media: MediaSource | None = None,
    ) -> Ranking:
        """Candidates by pairwise win count (RewardDance, section 3.3)."""

    def reward(
        self,
        pixels: Float[Tensor, "batch *frames channels height width"],
        prompts: Sequence[str],
        reference_pixels: Float[Tensor, "batch *frames2 channels height2 width2"] | None = None,
        instruction: str | Path | None = None,
        reference_mode: ReferenceMode | None = None,
    ) -> Float[Tensor, " batch"]:
        """Differentiable log-odds; float RGB in [0, 1].

        Several reference images of each candidate have an axis of their own after the batch. The other arguments are
        as in `judge`.
        """

    def prepare_comparisons(
        self, comparisons: Sequence[Comparison], formats: Sequence[Format] | None = None
    ) -> PreparedComparisons:
        """Decode, preprocess and tokenise judged comparisons in the order shown; needs no device.

        Args:
            comparisons: Judged; at least one.
            formats: Where each comparison's rationale stands; None leaves rationales out. Pairwise models only.
        """

    def comparison_loss(self, prepared: PreparedComparisons, settings: LossSettings) -> ComparisonLoss:
        """Forward pass of the paradigm on a batch that is already on the model's device."""

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder plus `rewarddance.json`."""
