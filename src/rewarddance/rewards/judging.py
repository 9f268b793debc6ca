"""Judging: requests become questions, questions batches, and answers judgements. The same for every paradigm.

A request that fails has a status; it is taken out before the forward pass, so that the others' scores are those of a
call without it. Errors of the machine (out of memory, a broken kernel) are nobody's status: they are raised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from rewarddance.core.errors import MediaError, ModelError
from rewarddance.core.types import Judgement, JudgementRequest, Status
from rewarddance.rewards.backbones.protocol import Backbone, EncodedQuestion
from rewarddance.rewards.instructions import Instruction
from rewarddance.rewards.media_cache import MediaCache
from rewarddance.rewards.module_modes import evaluating
from rewarddance.rewards.paradigm import (
    Paradigm,
    default_batch_tokens,
    device_and_dtype,
    hidden_of,
    instruction_for,
    token_batches,
    too_long_message,
)
from rewarddance.rewards.protocol import OrderMode
from rewarddance.rewards.questions import Question

# Requests whose decoded pictures are held at a time: 32 pairs of large tiled images are about 2 GB.
_WINDOW = 32
_MAX_REMEMBERED_ANSWERS = 4_096


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to one question.

    Attributes:
        log_odds: Of yes; finite.
        leaked_mass: Probability outside yes and no; None for a paradigm without answer tokens.
    """

    log_odds: float
    leaked_mass: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a question or a request has no answer."""

    status: Status
    message: str


@dataclass(frozen=True, slots=True)
class _Plan:
    """A request with what must be asked for it, or with the reason why nothing can be."""

    request: JudgementRequest
    instruction: Instruction
    questions: tuple[Question, ...]
    failure: Failure | None = None


def judge_requests(
    paradigm: Paradigm,
    requests: Sequence[JudgementRequest],
    order_mode: OrderMode | None = None,
    media: MediaCache | None = None,
) -> list[Judgement]:
    """One judgement a request, in order.

    Args:
        paradigm: The reward model.
        requests: What to judge, against what.
        order_mode: Ask comparisons in both orders or in one; None for the model's own.
        media: A cache that the caller shares between calls; None for a new one.

    Raises:
        UsageError: Unknown instruction, or a reference image is missing where one is needed.
    """
    # Held to the end: an image is known by its identity, which a later one may inherit.
    requests = list(requests)
    mode = paradigm.record.order_mode if order_mode is None else order_mode
    instructions = [instruction_for(paradigm, request.instruction) for request in requests]
    if media is None:
        media = MediaCache(paradigm.backbone, paradigm.record.media.frames_per_clip)
    judgements: list[Judgement] = []
    answers: dict[tuple[str, ...], Answer | Failure] = {}
    with evaluating(paradigm.module), torch.no_grad():
        for start in range(0, len(requests), _WINDOW):
            if len(answers) > _MAX_REMEMBERED_ANSWERS:
                answers.clear()
            window = slice(start, start + _WINDOW)
            plans = [
                _plan(paradigm, request, instruction, mode, media)
                for request, instruction in zip(requests[window], instructions[window], strict=True)
            ]
            new = {question.key: question for plan in plans for question in plan.questions}
            answers |= _ask(paradigm, [question for key, question in new.items() if key not in answers])
            judgements += [_conclude(paradigm, plan, answers) for plan in plans]
    return judgements


def _plan(
    paradigm: Paradigm,
    request: JudgementRequest,
    instruction: Instruction,
    order_mode: OrderMode,
    media: MediaCache,
) -> _Plan:
    try:
        reference = None if request.reference_image is None else media.get(request.reference_image)
        candidate = media.get(request.candidate)
    except MediaError as error:
        return _Plan(request, instruction, (), Failure(Status.UNREADABLE_MEDIA, str(error)))
    questions = paradigm.questions(instruction.text, request.prompt, candidate, reference, order_mode)
    return _Plan(request, instruction, questions)


def _ask(paradigm: Paradigm, questions: Sequence[Question]) -> dict[tuple[str, ...], Answer | Failure]:
    """Answers by question key."""
    answers: dict[tuple[str, ...], Answer | Failure] = {}
    askable: list[tuple[Question, EncodedQuestion]] = []
    for question in questions:
        encoded = _encode(paradigm.backbone, question)
        if isinstance(encoded, Failure):
            answers[question.key] = encoded
        else:
            askable.append((question, encoded))
    device, _ = device_and_dtype(paradigm.backbone)
    lengths = [len(encoded.token_ids) for _, encoded in askable]
    for batch in token_batches(lengths, default_batch_tokens(device)):
        for place, answer in zip(batch, _forward(paradigm, [askable[place][1] for place in batch]), strict=True):
            answers[askable[place][0].key] = answer
    return answers


def _encode(backbone: Backbone, question: Question) -> EncodedQuestion | Failure:
    try:
        encoded = backbone.encode(question.parts)
    except ModelError as error:  # the prompt holds the family's image token
        return Failure(Status.FAILED, str(error))
    tokens = len(encoded.token_ids)
    if tokens > backbone.max_tokens:
        return Failure(Status.TOO_LONG, too_long_message(tokens, backbone.max_tokens))
    return encoded


def _forward(paradigm: Paradigm, questions: Sequence[EncodedQuestion]) -> list[Answer | Failure]:
    hidden = hidden_of(paradigm.backbone, questions)
    log_odds = paradigm.read(hidden).tolist()
    leaked = paradigm.leaked(hidden)
    masses = [None] * len(questions) if leaked is None else leaked.tolist()
    return [_finite_answer(value, mass) for value, mass in zip(log_odds, masses, strict=True)]


def _finite_answer(log_odds: float, leaked_mass: float | None) -> Answer | Failure:
    if torch.isfinite(torch.tensor(log_odds)):
        return Answer(log_odds, leaked_mass)
    return Failure(
        Status.NON_FINITE, f"the model answered with {log_odds}; its weights or its precision are unsuitable"
    )


def _conclude(paradigm: Paradigm, plan: _Plan, answers: Mapping[tuple[str, ...], Answer | Failure]) -> Judgement:
    found = [answers[question.key] for question in plan.questions]
    failure = plan.failure or next((answer for answer in found if isinstance(answer, Failure)), None)
    if failure is not None:
        return Judgement(failure.status, message=failure.message, instruction=plan.instruction.name, id=plan.request.id)
    given = [answer for answer in found if isinstance(answer, Answer)]
    log_odds = torch.tensor([[answer.log_odds] for answer in given], dtype=torch.float64)  # (questions, 1)
    reward = paradigm.combine(log_odds)
    gap = paradigm.gap(log_odds)
    masses = [answer.leaked_mass for answer in given if answer.leaked_mass is not None]
    return Judgement(
        Status.OK,
        score=torch.sigmoid(reward).item(),
        reward=reward.item(),
        order_gap=None if gap is None else gap.item(),
        leaked_mass=sum(masses) / len(masses) if masses else None,
        instruction=plan.instruction.name,
        id=plan.request.id,
    )
