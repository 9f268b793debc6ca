"""The paper's reward model: a vision-language model says whether image 2 is better than image 1.

Source:
    RewardDance, arXiv:2509.08826, Eq. 2, r(x1, x2, y, i) = P("yes" | x1, x2, y, i), x1 being the reference image.

Differs:
    - Both orders are asked by default, and the preference for a position is taken out; the paper asks one.
    - Training uses binary cross-entropy on the log-odds of yes. This is the paper's next-token cross-entropy
      renormalised over {yes, no}, so no gradient is spent on the rest of the vocabulary; targets may be soft.
"""

from collections.abc import Mapping, Sequence
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
from rewarddance.rewards.preparation import prepare
from rewarddance.rewards.protocol import (
    ComparisonLoss,
    LossSettings,
    OrderMode,
    PreparedComparisons,
    RewardKind,
)
from rewarddance.rewards.questions import Medium, Question, comparison_question
from rewarddance.rewards.ranking import rank_candidates

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

    def judge(self, requests: Sequence[JudgementRequest], order_mode: OrderMode | None = None) -> list[Judgement]:
        """One judgement a request, in order; see `RewardModel.judge`.

        Raises:
            UsageError: A request has no reference image, or names unknown criteria.
        """
        if any(request.reference_image is None for request in requests):
            raise UsageError(_NEEDS_REFERENCE)
        return judge_requests(self, requests, order_mode)

    def compare(
        self, prompt: str, candidate: MediaSource, reference_image: MediaSource, instruction: str | None = None
    ) -> Judgement:
        """How much better the candidate is than the reference image."""
        return self.judge([JudgementRequest(prompt, candidate, reference_image, instruction)])[0]

    def rank(self, prompt: str, candidates: Sequence[MediaSource], instruction: str | None = None) -> Ranking:
        """Candidates by win count; see `rank_candidates`."""
        return rank_candidates(self, prompt, candidates, instruction)

    def reward(
        self,
        pixels: Float[Tensor, "batch *frames channels height width"],
        prompts: Sequence[str],
        reference_pixels: Float[Tensor, "batch *frames2 channels height2 width2"] | None = None,
        instruction: str | None = None,
    ) -> Float[Tensor, " batch"]:
        """Differentiable log-odds; see `pixel_reward`."""
        return pixel_reward(self, pixels, prompts, reference_pixels, instruction)

    def prepare_comparisons(self, comparisons: Sequence[Comparison]) -> PreparedComparisons:
        """One question a comparison, in the order shown; see `prepare`."""
        wording = self.record.wording
        return prepare(self, comparisons, lambda *shown: (comparison_question(wording, *shown),))

    def comparison_loss(self, prepared: PreparedComparisons, settings: LossSettings) -> ComparisonLoss:
        """Cross-entropy of the answer to "is image 2 better?"."""
        log_odds = self.read(self.backbone.answer_hidden(prepared.questions))
        loss = answer_cross_entropy(log_odds, prepared.targets, settings.label_smoothing)
        return ComparisonLoss(loss * prepared.weights, log_odds.detach())

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder plus `rewarddance.json`."""
        save_model(folder, self.backbone, self.record, self.training)

    def questions(
        self, criteria: str, prompt: str, candidate: Medium, reference: Medium | None, order_mode: OrderMode
    ) -> tuple[Question, ...]:
        """The candidate as image 2 and, with two orders, as image 1 as well."""
        if reference is None:
            raise UsageError(_NEEDS_REFERENCE)
        wording = self.record.wording
        forward = comparison_question(wording, criteria, prompt, reference, candidate)
        if order_mode == "one":
            return (forward,)
        return (forward, comparison_question(wording, criteria, prompt, candidate, reference))

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
