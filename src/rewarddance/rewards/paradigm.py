"""What judging, ranking, rewarding and learning need to know of a paradigm: its questions and how answers combine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rewarddance.core.choices import require_choice
from rewarddance.core.errors import UsageError
from rewarddance.objectives.answer_token import answer_log_odds, label_logits, leaked_mass
from rewarddance.rewards.answers import AnswerTokens
from rewarddance.rewards.backbones.protocol import Backbone, EncodedQuestion
from rewarddance.rewards.folder import ModelRecord
from rewarddance.rewards.instructions import Instruction, load_instruction, stored_instruction
from rewarddance.rewards.protocol import OrderMode, ReferenceMode
from rewarddance.rewards.questions import Medium, Question, QuestionWording, Side, quality_question

RATIONALES_NEED_TWO_MEDIA = (
    "rationales say which of two media is better; only a pairwise model, which sees both, can learn them"
)

SHOWS_ONE_MEDIUM = (
    "only a pairwise model shows several reference images in one question; a pointwise or scalar one looks at each "
    "alone (reference mode one_by_one)"
)


@runtime_checkable
class Paradigm(Protocol):
    """A way to turn hidden states at the answer position into a reward.

    Attributes:
        backbone: The vision-language model.
        record: The question, criteria and settings that are saved with the model.
    """

    @property
    def backbone(self) -> Backbone:
        """The vision-language model."""

    @property
    def record(self) -> ModelRecord:
        """The question, criteria and settings that are saved with the model."""

    @property
    def module(self) -> nn.Module:
        """Every parameter."""

    def questions(
        self,
        criteria: str,
        prompt: str,
        candidate: Medium,
        references: tuple[Medium, ...],
        order_mode: OrderMode,
        source: Medium | None = None,
    ) -> tuple[Question, ...]:
        """What has to be asked to judge the candidate against references shown together; one or two questions."""

    def read(self, hidden: Float[Tensor, "batch width"]) -> Float[Tensor, " batch"]:
        """Log-odds of each answer, in float32 or better."""

    def leaked(self, hidden: Float[Tensor, "batch width"]) -> Float[Tensor, " batch"] | None:
        """Probability outside yes and no; None for a paradigm without answer tokens."""

    def combine(self, log_odds: Float[Tensor, "questions batch"]) -> Float[Tensor, " batch"]:
        """Reward from the answers to `questions`, in their order."""

    def gap(self, log_odds: Float[Tensor, "questions batch"]) -> Float[Tensor, " batch"] | None:
        """Disagreement of the two orders; None when they were not both asked."""


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """Reads yes or no from the language model's own head.

    Attributes:
        backbone: Whose head it is.
        answers: The tokens of yes and no.
    """

    backbone: Backbone
    answers: AnswerTokens

    def log_odds(self, hidden: Float[Tensor, "batch width"]) -> Float[Tensor, " batch"]:
        """Log-odds of yes, from the label rows of the head only."""
        yes, labels = len(self.answers.yes_ids), len(self.answers.label_ids)
        places = torch.arange(labels, device=hidden.device)
        logits = label_logits(hidden, self.backbone.label_rows(self.answers.label_ids))  # (batch, labels)
        return answer_log_odds(logits, places[:yes], places[yes:])

    def leaked_mass(self, hidden: Float[Tensor, "batch width"]) -> Float[Tensor, " batch"]:
        """Probability outside yes and no; computes one row of the whole vocabulary for each question."""
        head = cast(Any, self.backbone.model).get_output_embeddings()
        yes_ids = torch.tensor(self.answers.yes_ids, device=hidden.device)
        no_ids = torch.tensor(self.answers.no_ids, device=hidden.device)
        return leaked_mass(head(hidden), yes_ids, no_ids)


def quality_questions(
    wording: QuestionWording, criteria: str, prompt: str, *media: Medium, source: Medium | None = None
) -> tuple[Question, ...]:
    """The pointwise question about each medium."""
    return tuple(quality_question(wording, criteria, prompt, medium, source) for medium in media)


def pair_of_qualities(
    wording: QuestionWording, criteria: str, prompt: str, first: Side, second: Side, source: Medium | None
) -> tuple[Question, ...]:
    """The pointwise questions from which a comparison is learned.

    Raises:
        UsageError: A side has several media.
    """
    if isinstance(first, tuple) or isinstance(second, tuple):
        raise UsageError(SHOWS_ONE_MEDIUM)
    return quality_questions(wording, criteria, prompt, first, second, source=source)


def difference_of_qualities(rewards: Float[Tensor, "questions batch"]) -> Float[Tensor, " batch"]:
    """Reward of the first row less that of the second, if there is one."""
    return rewards[0] - rewards[1] if len(rewards) > 1 else rewards[0]


def reference_groups(references: Sequence[Medium], mode: ReferenceMode) -> list[tuple[Medium, ...]]:
    """Which reference images are shown in one question; a single group without any where there are none."""
    if mode == "together" or not references:
        return [tuple(references)]
    return [(reference,) for reference in references]


def refuse_unknown_modes(order_mode: str | None, reference_mode: str | None) -> None:
    """Stop at a mode that does not exist, which would be taken for another.

    Raises:
        UsageError: There is none of that name.
    """
    asked = {
        "order mode": (order_mode, get_args(OrderMode)),
        "reference mode": (reference_mode, get_args(ReferenceMode)),
    }
    for what, (mode, known) in asked.items():
        if mode is not None:
            require_choice(what, mode, known)


def instruction_for(paradigm: Paradigm, named: str | Path | None) -> Instruction:
    """The criteria that a request or comparison names; the model's own for None or for their own name.

    Args:
        paradigm: The reward model.
        named: A name, for which no file of the user's is ever read; or a file, given as a `Path`.

    Raises:
        UsageError: The name is in neither place, or the file has no criteria.
    """
    own = paradigm.record.instruction
    if isinstance(named, Path):
        return load_instruction(named)
    return own if named is None or named == own.name else stored_instruction(named)


def device_and_dtype(backbone: Backbone) -> tuple[torch.device, torch.dtype]:
    """Where the model is, and its floating-point type."""
    parameter = next(parameter for parameter in backbone.model.parameters() if parameter.is_floating_point())
    return parameter.device, parameter.dtype


def token_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Groups of similar length whose padded size stays within a budget.

    Args:
        lengths: Tokens of each question.
        max_tokens: Most tokens of a padded batch; a longer question goes alone.

    Returns:
        Indices into `lengths`, shortest first, each exactly once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        # Lengths ascend, so the newcomer is the longest and sets the padded length.
        if batches and (len(batches[-1]) + 1) * lengths[index] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def default_batch_tokens(device: torch.device) -> int:
    """Tokens of a batch that keep the device busy without filling its memory."""
    return 32_768 if device.type == "cuda" else 4_096


def hidden_of(backbone: Backbone, questions: Sequence[EncodedQuestion]) -> Float[Tensor, "batch width"]:
    """Hidden state at the answer position of each question, on the model's device."""
    return backbone.answer_states(questions)


def too_long_message(tokens: int, limit: int) -> str:
    """One line for a question that is not asked because it would have to be cut."""
    return f"the question takes {tokens:,} tokens and the model can read {limit:,}; shorten the prompt"
