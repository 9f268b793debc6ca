"""What every reward model offers, whatever its paradigm: judging, a differentiable reward, and learning.

Three paradigms implement it (RewardDance, arXiv:2509.08826, Table 7): `pairwise` (generative, Eq. 2),
`pointwise` (generative, section 3.2.3) and `scalar` (a regression head).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from rewarddance.core.media import MediaSource
from rewarddance.core.types import Comparison, Judgement, JudgementRequest, Ranking
from rewarddance.rewards.backbones.protocol import Backbone, QuestionBatch

RewardKind = Literal["pairwise", "pointwise", "scalar"]

OrderMode = Literal["two", "one"]
"""Ask a comparison in both orders and take the preference for a position out, or as the paper does, in one."""


@dataclass(frozen=True, slots=True)
class PreparedComparisons:
    """Comparisons as tensors on the CPU, made in a data-loader worker.

    Attributes:
        ids: Record id of each comparison.
        questions: One question a comparison (pairwise), or first media then second media (pointwise, scalar).
        targets: Preference for the second medium in [0, 1], shape (comparisons,).
        weights: Weight of each comparison, shape (comparisons,).
    """

    ids: tuple[str, ...]
    questions: QuestionBatch
    targets: Float[Tensor, " comparisons"]
    weights: Float[Tensor, " comparisons"]


@dataclass(frozen=True, slots=True)
class LossSettings:
    """How a comparison becomes a loss.

    Attributes:
        label_smoothing: Share in [0, 1) by which hard targets are drawn towards one half.
        answer_weight: Pointwise only: weight of the yes/no cross-entropy beside the Bradley-Terry loss.
    """

    label_smoothing: float = 0.0
    answer_weight: float = 0.1


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

    def judge(self, requests: Sequence[JudgementRequest], order_mode: OrderMode | None = None) -> list[Judgement]:
        """One judgement a request, in order. A failed request has a status and no score.

        Args:
            requests: What to judge, against what.
            order_mode: Ask in both orders or in one; None for the model's own.
        """

    def compare(
        self, prompt: str, candidate: MediaSource, reference_image: MediaSource, instruction: str | None = None
    ) -> Judgement:
        """How much better `candidate` is than `reference_image` for the prompt."""

    def rank(self, prompt: str, candidates: Sequence[MediaSource], instruction: str | None = None) -> Ranking:
        """Candidates by pairwise win count (RewardDance, section 3.3)."""

    def reward(
        self,
        pixels: Float[Tensor, "batch *frames channels height width"],
        prompts: Sequence[str],
        reference_pixels: Float[Tensor, "batch *frames2 channels height2 width2"] | None = None,
        instruction: str | None = None,
    ) -> Float[Tensor, " batch"]:
        """Differentiable log-odds; float RGB in [0, 1]."""

    def prepare_comparisons(self, comparisons: Sequence[Comparison]) -> PreparedComparisons:
        """Decode, preprocess and tokenise judged comparisons in the order shown; needs no device."""

    def comparison_loss(self, prepared: PreparedComparisons, settings: LossSettings) -> ComparisonLoss:
        """Forward pass of the paradigm on a batch that is already on the model's device."""

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder plus `rewarddance.json`."""
