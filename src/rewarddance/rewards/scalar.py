"""The baseline of the paper: a linear head on the last hidden state, trained with Bradley-Terry.

Source:
    RewardDance, arXiv:2509.08826, Table 7 and Eq. 1 ("pointwise regressive").

Differs: the question of the pointwise model is asked here too, and the head reads the position where that model
would answer, so that the two paradigms differ in the head and the loss only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rewarddance.core.errors import ModelError, UsageError
from rewarddance.core.media import MediaSource
from rewarddance.core.seeding import derive_seed
from rewarddance.core.types import Comparison, Judgement, JudgementRequest, Ranking
from rewarddance.objectives.answer_token import label_logits
from rewarddance.objectives.preference import bradley_terry_loss
from rewarddance.rewards.backbones.protocol import Backbone
from rewarddance.rewards.folder import ModelRecord, save_model
from rewarddance.rewards.judging import judge_requests
from rewarddance.rewards.paradigm import (
    RATIONALES_NEED_TWO_MEDIA,
    SHOWS_ONE_MEDIUM,
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
from rewarddance.rewards.reasoning_settings import Format, ReasoningSettings

_HEAD_NAME = "reward_head.safetensors"
_INITIAL_SPREAD = 0.01


class ScalarModel:
    """Regression reward model; implements `RewardModel`. Needs no reference image.

    Attributes:
        head: From the hidden state to one number, without a bias: only differences of rewards are learned.
    """

    kind: RewardKind = "scalar"

    def __init__(self, backbone: Backbone, record: ModelRecord, head: nn.Linear) -> None:
        self.backbone = backbone
        self.record = record
        self.head = head
        self.training: Mapping[str, object] | None = record.training

    @property
    def module(self) -> nn.Module:
        """The vision-language model and the head."""
        return nn.ModuleDict({"backbone": self.backbone.model, "head": self.head})

    def judge(
        self,
        requests: Sequence[JudgementRequest],
        order_mode: OrderMode | None = None,
        reference_mode: ReferenceMode | None = None,
        reasoning: ReasoningSettings | None = None,
    ) -> list[Judgement]:
        """One judgement a request, in order; see `RewardModel.judge`. There is no order to speak of."""
        if reasoning is not None:
            raise UsageError("a scalar model has no words to give reasons in; use a pairwise or pointwise one")
        return judge_requests(self, requests, order_mode, reference_mode=reference_mode)

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
        """Differentiable reward, or its difference from the reference image's; see `pixel_reward`."""
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
        """Bradley-Terry on the difference of the two rewards."""
        first, second = self.read(self.backbone.answer_hidden(prepared.questions)).chunk(2)
        loss = bradley_terry_loss(second - first, prepared.targets, settings.label_smoothing)
        loss = taught_loss(loss, second - first, prepared, settings)
        return ComparisonLoss(loss * prepared.weights, (second - first).detach())

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder plus the head and `rewarddance.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weight": self.head.weight.detach().cpu().contiguous()}, folder / _HEAD_NAME)
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
        """The head's number."""
        return label_logits(hidden, self.head.weight)[:, 0]

    def leaked(self, hidden: Float[Tensor, "batch width"]) -> None:
        """None: there are no answer tokens."""
        return

    def combine(self, log_odds: Float[Tensor, "questions batch"]) -> Float[Tensor, " batch"]:
        """The candidate's reward, less the reference image's."""
        return difference_of_qualities(log_odds)

    def gap(self, log_odds: Float[Tensor, "questions batch"]) -> None:
        """None: media are never shown side by side."""
        return


def new_head(backbone: Backbone, seed: int) -> nn.Linear:
    """A head that cannot tell yet: rewards of about 0.01, so that the first losses are about ln 2.

    Args:
        backbone: Gives the width and the device.
        seed: Of the run.
    """
    rows = backbone.label_rows([0])
    width = rows.shape[1]
    rng = torch.Generator().manual_seed(derive_seed(seed, "reward head"))
    head = nn.Linear(width, 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, width, generator=rng) * (_INITIAL_SPREAD / width**0.5))
    return head.to(rows.device)


def read_head(folder: Path, backbone: Backbone) -> nn.Linear:
    """The head of a saved model, in float32.

    Raises:
        ModelError: It is missing, damaged, or made for another vision-language model.
    """
    head = new_head(backbone, seed=0)
    try:
        weight = load_file(folder / _HEAD_NAME)["weight"]
    except (OSError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder / _HEAD_NAME} is missing or damaged; copy or download the model again") from error
    if weight.shape != head.weight.shape:
        raise ModelError(
            f"{folder / _HEAD_NAME} has {weight.shape[-1]} inputs and the vision-language model gives "
            f"{head.weight.shape[-1]}; the two do not belong together"
        )
    with torch.no_grad():
        head.weight.copy_(weight)
    return head
