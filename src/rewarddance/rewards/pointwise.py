"""A vision-language model says whether one image is good for its prompt; two images are compared by difference.

Source:
    RewardDance, arXiv:2509.08826, section 3.2.3: reward P("yes"), Bradley-Terry loss on preference pairs plus a
    cross-entropy with small weight (chosen: yes, rejected: no).

Differs:
    - Rewards are log-odds, also inside the Bradley-Terry loss: differences of probabilities never exceed 1, so their
      loss could never fall below 0.31.
    - The weight is not in the paper; `LossSettings.answer_weight` multiplies the mean cross-entropy of the two
      answers. Ties ask both for one half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from rewarddance.core.errors import UsageError
from rewarddance.core.media import MediaSource
from rewarddance.core.types import Comparison, Judgement, JudgementRequest, Ranking
from rewarddance.objectives.answer_token import answer_cross_entropy
from rewarddance.objectives.preference import bradley_terry_loss
from rewarddance.rewards.backbones.protocol import Backbone
from rewarddance.rewards.folder import ModelRecord, save_model
from rewarddance.rewards.judging import judge_requests
from rewarddance.rewards.paradigm import (
    RATIONALES_NEED_TWO_MEDIA,
    SHOWS_ONE_MEDIUM,
    AnswerReader,
    difference_of_qualities,
    pair_of_qualities,
    quality_questions,
)
from rewarddance.rewards.pixel_reward import pixel_reward
from rewarddance.rewards.preparation import prepare
from rewarddance.rewards.protocol import (
    ComparisonLoss,
    LossSettings,
    OrderMode,
    PreparedComparisons,
    ReferenceMode,
    RewardKind,
)
from rewarddance.rewards.questions import Medium, Question
from rewarddance.rewards.ranking import rank_candidates
from rewarddance.rewards.rationale_learning import taught_loss
from rewarddance.rewards.reasoned_judging import judge_with_reasons
from rewarddance.rewards.reasoning_settings import Format, ReasoningSettings
from rewarddance.rewards.replies import reasons_first


class PointwiseModel:
    """Pointwise generative reward model; implements `RewardModel`. Needs no reference image."""

    kind: RewardKind = "pointwise"

    def __init__(self, backbone: Backbone, record: ModelRecord) -> None:
        self.backbone = backbone
        self.record = record
        self.training: Mapping[str, object] | None = record.training
        self._reader = AnswerReader(backbone, record.answers)

    @property
    def module(self) -> nn.Module:
        """The vision-language model."""
        return self.backbone.model

    def judge(
        self,
        requests: Sequence[JudgementRequest],
        order_mode: OrderMode | None = None,
        reference_mode: ReferenceMode | None = None,
        reasoning: ReasoningSettings | None = None,
    ) -> list[Judgement]:
        """One judgement a request, in order; see `RewardModel.judge`. There is no order to speak of."""
        if reasoning is None:
            return judge_requests(self, requests, order_mode, reference_mode=reference_mode)
        asked = self if reasoning.format == "answer_first" else self._asked_for_reasons()
        return judge_with_reasons(asked, requests, reasoning, order_mode, reference_mode)

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
        """Candidates by win count; see `rank_candidates`. Each candidate is looked at once."""
        return rank_candidates(self, prompt, candidates, instruction, source_media)

    def reward(
        self,
        pixels: Float[Tensor, "batch *frames channels height width"],
        prompts: Sequence[str],
        reference_pixels: Float[Tensor, "batch *frames2 channels height2 width2"] | None = None,
        instruction: str | Path | None = None,
        reference_mode: ReferenceMode | None = None,
    ) -> Float[Tensor, " batch"]:
        """Differentiable log-odds, or their difference from the reference image's; see `pixel_reward`."""
        return pixel_reward(self, pixels, prompts, reference_pixels, instruction, reference_mode)

    def prepare_comparisons(
        self, comparisons: Sequence[Comparison], formats: Sequence[Format] | None = None
    ) -> PreparedComparisons:
        """First media, then second media; see `prepare`.

        Raises:
            UsageError: Rationales are to be learned.
        """
        if formats is not None:
            raise UsageError(RATIONALES_NEED_TWO_MEDIA)
        wording = self.record.wording
        return prepare(self, comparisons, lambda *shown: pair_of_qualities(wording, *shown))

    def comparison_loss(self, prepared: PreparedComparisons, settings: LossSettings) -> ComparisonLoss:
        """Bradley-Terry on the difference, plus a little cross-entropy on each answer."""
        log_odds = self.read(self.backbone.answer_hidden(prepared.questions))
        first, second = log_odds.chunk(2)
        smoothing = settings.label_smoothing
        answers = answer_cross_entropy(second, prepared.targets, smoothing)
        answers = 0.5 * (answers + answer_cross_entropy(first, 1.0 - prepared.targets, smoothing))
        loss = bradley_terry_loss(second - first, prepared.targets, smoothing) + settings.answer_weight * answers
        loss = taught_loss(loss, second - first, prepared, settings)
        return ComparisonLoss(loss * prepared.weights, (second - first).detach())

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder plus `rewarddance.json`."""
        save_model(folder, self.backbone, self.record, self.training)

    def questions(
        self,
        criteria: str,
        prompt: str,
        candidate: Medium,
        references: tuple[Medium, ...],
        order_mode: OrderMode,
        source: Medium | None = None,
    ) -> tuple[Question, ...]:
        """One about the candidate and, if there is one, the same about the reference image."""
        if len(references) > 1:
            raise UsageError(SHOWS_ONE_MEDIUM)
        return quality_questions(self.record.wording, criteria, prompt, candidate, *references, source=source)

    def read(self, hidden: Float[Tensor, "batch width"]) -> Float[Tensor, " batch"]:
        """Log-odds of yes."""
        return self._reader.log_odds(hidden)

    def leaked(self, hidden: Float[Tensor, "batch width"]) -> Float[Tensor, " batch"]:
        """Probability outside yes and no."""
        return self._reader.leaked_mass(hidden)

    def combine(self, log_odds: Float[Tensor, "questions batch"]) -> Float[Tensor, " batch"]:
        """The candidate's log-odds, less the reference image's."""
        return difference_of_qualities(log_odds)

    def gap(self, log_odds: Float[Tensor, "questions batch"]) -> None:
        """None: media are never shown side by side."""
        return

    def _asked_for_reasons(self) -> "PointwiseModel":
        """The same model, whose questions ask for reasons before the answer."""
        return PointwiseModel(self.backbone, replace(self.record, wording=reasons_first(self.record.wording)))
