"""Judging: requests become questions, questions batches, and answers judgements. The same for every paradigm.

A request that fails has a status; it is taken out before the forward pass, so that the others' scores are those of a
call without it. Errors of the machine (out of memory, a broken kernel) are nobody's status: they are raised.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from rewarddance.core.errors import MediaError, ModelError
from rewarddance.core.types import Judgement, JudgementCost, JudgementRequest, Status
from rewarddance.core.whole_text import prompt_flaw
from rewarddance.rewards.backbones.protocol import Backbone, EncodedQuestion
from rewarddance.rewards.instructions import Instruction
from rewarddance.rewards.media_cache import MediaCache
from rewarddance.rewards.module_modes import evaluating
from rewarddance.rewards.paradigm import (
    Paradigm,
    hidden_of,
    instruction_for,
    reference_groups,
    refuse_unknown_modes,
    too_long_message,
)
from rewarddance.rewards.protocol import OrderMode, ReferenceMode
from rewarddance.rewards.questions import Question

# Requests whose decoded pictures are held at a time: 32 pairs of large tiled images are about 2 GB.
_WINDOW = 32
# Answers whose logits over the whole vocabulary are held at a time.
_ANSWERS_AT_ONCE = 64
_MAX_REMEMBERED_ANSWERS = 4_096


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to one question.

    Attributes:
        log_odds: Of yes; finite.
        leaked_mass: Probability outside yes and no; None for a paradigm without answer tokens.
        rationale: Reasons for it, if they were asked for and came to an end.
        cost: What it took.
        note: One line on what is missing.
    """

    log_odds: float
    leaked_mass: float | None
    rationale: str | None = None
    cost: JudgementCost | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a question or a request has no answer."""

    status: Status
    message: str
    cost: JudgementCost | None = None


Ask = Callable[[Paradigm, Sequence[Question]], dict[tuple[str, ...], Answer | Failure]]
"""From questions, each once, to answers by question key."""


@runtime_checkable
class AnswersItself(Protocol):
    """A backbone that is asked whole questions, such as one behind a service."""

    def answer(self, questions: Sequence[Question]) -> dict[tuple[str, ...], Answer | Failure]:
        """Answers by question key."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """A request with what must be asked for it, or with the reason why nothing can be.

    Attributes:
        request: What was asked for.
        instruction: The criteria.
        groups: Questions against each reference image, or one group against all; their rewards are averaged.
        failure: Why nothing can be asked.
    """

    request: JudgementRequest
    instruction: Instruction
    groups: tuple[tuple[Question, ...], ...]
    failure: Failure | None = None

    @property
    def questions(self) -> tuple[Question, ...]:
        return tuple(question for group in self.groups for question in group)


@dataclass(frozen=True, slots=True)
class _Modes:
    """How a request becomes questions."""

    order: OrderMode
    reference: ReferenceMode


def judge_requests(
    paradigm: Paradigm,
    requests: Sequence[JudgementRequest],
    order_mode: OrderMode | None = None,
    media: MediaCache | None = None,
    reference_mode: ReferenceMode | None = None,
    ask: Ask | None = None,
    window: int = _WINDOW,
) -> list[Judgement]:
    """One judgement a request, in order.

    Against several reference images, the reward is that of one question with all of them, or the mean log-odds of one
    question for each; a request fails when one of its media does.

    Args:
        paradigm: The reward model.
        requests: What to judge, against what.
        order_mode: Ask comparisons in both orders or in one; None for the model's own.
        media: A cache that the caller shares between calls; None for a new one.
        reference_mode: Show several reference images in one question or one by one; None for the model's own.
        ask: Answers the questions; None reads one token after each.
        window: Requests that are planned together: what they share is computed once, and their media are held.

    Raises:
        UsageError: Unknown instruction or mode, a reference image is missing where one is needed, or something is given
            for a medium that is none.
    """
    refuse_unknown_modes(order_mode, reference_mode)
    # Held to the end: an image is known by its identity, which a later one may inherit.
    requests = list(requests)
    modes = _Modes(order_mode or paradigm.record.order_mode, reference_mode or paradigm.record.reference_mode)
    # Each file of criteria is read once.
    named = {name: instruction_for(paradigm, name) for name in dict.fromkeys(one.instruction for one in requests)}
    if media is None:
        media = MediaCache(paradigm.backbone, paradigm.record.media.frames_per_clip)
    judgements: list[Judgement] = []
    answers: dict[tuple[str, ...], Answer | Failure] = {}
    with evaluating(paradigm.module), torch.no_grad():
        for start in range(0, len(requests), window):
            if len(answers) > _MAX_REMEMBERED_ANSWERS:
                answers.clear()
            asked = requests[start : start + window]
            plans = [_plan(paradigm, one, named[one.instruction], modes, media) for one in asked]
            new = {question.key: question for plan in plans for question in plan.questions}
            answers |= (ask or _ask)(paradigm, [question for key, question in new.items() if key not in answers])
            judgements += [_conclude(paradigm, plan, answers) for plan in plans]
    return judgements


def _plan(
    paradigm: Paradigm,
    request: JudgementRequest,
    instruction: Instruction,
    modes: _Modes,
    media: MediaCache,
) -> _Plan:
    if (flaw := prompt_flaw(request.prompt)) is not None:
        return _Plan(request, instruction, (), Failure(Status.FAILED, flaw))
    try:
        source = None if request.source_media is None else media.get(request.source_media)
        references = [media.get(reference) for reference in request.reference_images]
        candidate = media.get(request.candidate)
    except MediaError as error:
        return _Plan(request, instruction, (), Failure(Status.UNREADABLE_MEDIA, str(error)))
    groups = (
        paradigm.questions(instruction.text, request.prompt, candidate, shown, modes.order, source)
        for shown in reference_groups(references, modes.reference)
    )
    return _Plan(request, instruction, tuple(groups))


def _ask(paradigm: Paradigm, questions: Sequence[Question]) -> dict[tuple[str, ...], Answer | Failure]:
    """Answers by question key."""
    if isinstance(paradigm.backbone, AnswersItself):
        return paradigm.backbone.answer(questions)
    answers: dict[tuple[str, ...], Answer | Failure] = {}
    askable: list[tuple[Question, EncodedQuestion]] = []
    for question in questions:
        encoded = encode_question(paradigm.backbone, question, paradigm.backbone.max_tokens)
        if isinstance(encoded, Failure):
            answers[question.key] = encoded
        else:
            askable.append((question, encoded))
    given = _forward(paradigm, [encoded for _, encoded in askable]) if askable else []
    return answers | {question.key: answer for (question, _), answer in zip(askable, given, strict=True)}


def encode_question(backbone: Backbone, question: Question, max_tokens: int) -> EncodedQuestion | Failure:
    """The question as tokens and pictures, or why it cannot be asked."""
    try:
        encoded = backbone.encode(question.parts)
    except ModelError as error:  # the prompt holds the family's image token
        return Failure(Status.FAILED, str(error))
    tokens = len(encoded.token_ids)
    if tokens > max_tokens:
        return Failure(Status.TOO_LONG, too_long_message(tokens, max_tokens))
    return encoded


def _forward(paradigm: Paradigm, questions: Sequence[EncodedQuestion]) -> list[Answer | Failure]:
    log_odds: list[float] = []
    masses: list[float | None] = []
    for hidden in torch.split(hidden_of(paradigm.backbone, questions), _ANSWERS_AT_ONCE):
        log_odds += paradigm.read(hidden).tolist()
        leaked = paradigm.leaked(hidden)
        masses += [None] * len(hidden) if leaked is None else leaked.tolist()
    costs = [JudgementCost(questions=1, read_tokens=len(question.token_ids)) for question in questions]
    return [finite_answer(*values) for values in zip(log_odds, masses, costs, strict=True)]


def finite_answer(
    log_odds: float,
    leaked_mass: float | None,
    cost: JudgementCost,
    rationale: str | None = None,
    note: str | None = None,
) -> Answer | Failure:
    """An answer, or the failure that a log-odds which is no finite number stands for."""
    if math.isfinite(log_odds):
        return Answer(log_odds, leaked_mass, rationale, cost, note)
    message = f"the model answered with {log_odds}; its weights or its precision are unsuitable"
    return Failure(Status.NON_FINITE, message, cost)


def _conclude(paradigm: Paradigm, plan: _Plan, answers: Mapping[tuple[str, ...], Answer | Failure]) -> Judgement:
    found = [answers[question.key] for question in plan.questions]
    criteria, digest = plan.instruction.name, plan.instruction.sha256
    costs = [answer.cost for answer in found if answer.cost is not None]
    cost = sum(costs, JudgementCost()) if costs else None
    failure = plan.failure or next((answer for answer in found if isinstance(answer, Failure)), None)
    if failure is not None:
        return Judgement(
            failure.status,
            message=failure.message,
            instruction=criteria,
            id=plan.request.id,
            instruction_sha256=digest,
            cost=cost,
        )
    given = [answer for answer in found if isinstance(answer, Answer)]
    values = torch.tensor([answer.log_odds for answer in given], dtype=torch.float64)
    log_odds = values.reshape(len(plan.groups), -1).T  # (questions, groups)
    reward = paradigm.combine(log_odds).mean()
    gap = paradigm.gap(log_odds)
    masses = [answer.leaked_mass for answer in given if answer.leaked_mass is not None]
    return Judgement(
        Status.OK,
        score=torch.sigmoid(reward).item(),
        reward=reward.item(),
        order_gap=None if gap is None else gap.mean().item(),
        leaked_mass=sum(masses) / len(masses) if masses else None,
        instruction=criteria,
        id=plan.request.id,
        instruction_sha256=digest,
        rationale=given[0].rationale,
        message=given[0].note,
        cost=cost,
    )
