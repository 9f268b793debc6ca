"""The paper's reward model: a vision-language model says whether image 2 is better than image 1.

Source:
    RewardDance, arXiv:2509.08826, Eq. 2, r(x1, x2, y, i) = P("yes" | x1, x2, y, i), x1 being the reference image.

Differs:
    - Both orders are asked by default, and the preference for a position is taken out; the paper asks one.
    - Training uses binary cross-entropy on the log-odds of yes. This is the paper's next-token cross-entropy
      renormalised over {yes, no}, so no gradient is spent on the rest of the vocabulary; targets may be soft.
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
from rewarddance.objectives.preference import order_gap, two_order_log_odds
from rewarddance.rewards.backbones.protocol import Backbone
from rewarddance.rewards.folder import ModelRecord, save_model
from rewarddance.rewards.judging import judge_requests
from rewarddance.rewards.paradigm import AnswerReader
from rewarddance.rewards.pixel_reward import pixel_reward
from rewarddance.rewards.preparation import QuestionMaker, prepare
from rewarddance.rewards.protocol import (
    ComparisonLoss,
    LossSettings,
    OrderMode,
    PreparedComparisons,
    ReferenceMode,
    RewardKind,
)
from rewarddance.rewards.questions import Medium, Question, QuestionWording, comparison_question
from rewarddance.rewards.ranking import rank_candidates
from rewarddance.rewards.rationale_learning import prepare_with_rationales, rationale_loss, taught_loss
from rewarddance.rewards.reasoned_judging import judge_with_reasons
from rewarddance.rewards.reasoning_settings import Format, ReasoningSettings
from rewarddance.rewards.replies import reasons_first

_NEEDS_REFERENCE = "a pairwise model judges against a reference image; give one, or use a pointwise or scalar model"


class PairwiseModel:
    """Pairwise generative reward model; implements `RewardModel`."""

    kind: RewardKind = "pairwise"

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
        """One judgement a request, in order; see `RewardModel.judge`.

        Raises:
            UsageError: A request has no reference image, or names unknown criteria.
        """
        requests = list(requests)
        if not all(request.reference_images for request in requests):
            raise UsageError(_NEEDS_REFERENCE)
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
        """Candidates by win count; see `rank_candidates`."""
        return rank_candidates(self, prompt, candidates, instruction, source_media)

    def reward(
        self,
        pixels: Float[Tensor, "batch *frames channels height width"],
        prompts: Sequence[str],
        reference_pixels: Float[Tensor, "batch *frames2 channels height2 width2"] | None = None,
        instruction: str | Path | None = None,
        reference_mode: ReferenceMode | None = None,
    ) -> Float[Tensor, " batch"]:
        """Differentiable log-odds; see `pixel_reward`."""
        return pixel_reward(self, pixels, prompts, reference_pixels, instruction, reference_mode)

    def prepare_comparisons(
        self, comparisons: Sequence[Comparison], formats: Sequence[Format] | None = None
    ) -> PreparedComparisons:
        """One question a comparison, in the order shown; see `prepare` and `prepare_with_rationales`."""
        if formats is None:
            return prepare(self, comparisons, _asked_in(self.record.wording))
        return prepare_with_rationales(self, comparisons, formats, _asked_in)

    def comparison_loss(self, prepared: PreparedComparisons, settings: LossSettings) -> ComparisonLoss:
        """Cross-entropy of the answer to "is image 2 better?", and of its rationale if there is one."""
        if prepared.rationales is None:
            log_odds = self.read(self.backbone.answer_hidden(prepared.questions))
            loss = answer_cross_entropy(log_odds, prepared.targets, settings.label_smoothing)
        else:
            log_odds, loss = rationale_loss(self, prepared, prepared.rationales, settings)
        loss = taught_loss(loss, log_odds, prepared, settings)
        return ComparisonLoss(loss * prepared.weights, log_odds.detach())

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
        """The candidate as the last image and, with two orders, as image 1 as well."""
        if not references:
            raise UsageError(_NEEDS_REFERENCE)
        wording = self.record.wording
        forward = comparison_question(wording, criteria, prompt, references, candidate, source)
        if order_mode == "one":
            return (forward,)
        return (forward, comparison_question(wording, criteria, prompt, candidate, references, source))

    def read(self, hidden: Float[Tensor, "batch width"]) -> Float[Tensor, " batch"]:
        """Log-odds of yes."""
        return self._reader.log_odds(hidden)

    def leaked(self, hidden: Float[Tensor, "batch width"]) -> Float[Tensor, " batch"]:
        """Probability outside yes and no."""
        return self._reader.leaked_mass(hidden)

    def combine(self, log_odds: Float[Tensor, "questions batch"]) -> Float[Tensor, " batch"]:
        """Half the difference of the two orders, or the one answer as it is."""
        return two_order_log_odds(log_odds[0], log_odds[1]) if len(log_odds) > 1 else log_odds[0]

    def gap(self, log_odds: Float[Tensor, "questions batch"]) -> Float[Tensor, " batch"] | None:
        """How far the two orders disagree."""
        return order_gap(log_odds[0], log_odds[1]) if len(log_odds) > 1 else None

    def _asked_for_reasons(self) -> "PairwiseModel":
        """The same model, whose questions ask for reasons before the answer."""
        return PairwiseModel(self.backbone, replace(self.record, wording=reasons_first(self.record.wording)))


def _asked_in(wording: QuestionWording) -> QuestionMaker:
    return lambda *shown: (comparison_question(wording, *shown),)
