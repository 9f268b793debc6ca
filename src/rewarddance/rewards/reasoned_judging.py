"""Judging with reasons: as `judging`, but every question is answered together with rationales."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from rewarddance.core.errors import UsageError
from rewarddance.core.types import Judgement, JudgementCost, JudgementRequest, Status
from rewarddance.objectives.distillation import mean_answer_log_odds
from rewarddance.rewards.backbones.protocol import EncodedQuestion
from rewarddance.rewards.judging import Answer, AnswersItself, Failure, encode_question, finite_answer, judge_requests
from rewarddance.rewards.paradigm import Paradigm
from rewarddance.rewards.protocol import OrderMode, ReferenceMode, RewardModel
from rewarddance.rewards.questions import Question
from rewarddance.rewards.reasoning import ReasonedAnswer, reason, room_for_question
from rewarddance.rewards.reasoning_settings import ReasoningSettings


def judge_with_reasons(
    paradigm: Paradigm,
    requests: Sequence[JudgementRequest],
    settings: ReasoningSettings,
    order_mode: OrderMode | None = None,
    reference_mode: ReferenceMode | None = None,
) -> list[Judgement]:
    """One judgement a request, in order, each with a rationale and its cost.

    Args:
        paradigm: Asks in the words of the format.
        requests: What to judge, against what.
        settings: How reasons are asked for.
        order_mode: Ask comparisons in both orders or in one; None for the model's own.
        reference_mode: As in `judge_requests`.

    Returns:
        With `reason_first`, a question is answered by the mean probability over the rationales that ended; when none
        did, the judgement has the status `unfinished_rationale` and no score. With `answer_first`, scores are those of
        a call without reasons.

    Raises:
        UsageError: The model is behind a service, which writes no reasons for us; or as in `judge_requests`.
    """
    if isinstance(paradigm.backbone, AnswersItself):
        raise UsageError("a served model is asked for one token; reasons need the model in this process")
    return judge_requests(
        paradigm,
        requests,
        order_mode,
        ask=lambda _, questions: _ask(paradigm, questions, settings),
        reference_mode=reference_mode,
    )


@dataclass(slots=True)
class ReasonedJudge:
    """A reward model that is always asked for reasons, wherever a plain one can be measured.

    Attributes:
        model: The reward model.
        settings: How reasons are asked for.
        spent: What all judgements so far took.
    """

    model: RewardModel
    settings: ReasoningSettings
    spent: JudgementCost = field(default_factory=JudgementCost)

    def judge(self, requests: Sequence[JudgementRequest], order_mode: OrderMode | None = None) -> list[Judgement]:
        """One judgement a request, in order; see `RewardModel.judge`."""
        judgements = self.model.judge(requests, order_mode, reasoning=self.settings)
        self.spent = sum((one.cost for one in judgements if one.cost is not None), self.spent)
        return judgements


def _ask(
    paradigm: Paradigm, questions: Sequence[Question], settings: ReasoningSettings
) -> dict[tuple[str, ...], Answer | Failure]:
    """Answers by question key."""
    answers: dict[tuple[str, ...], Answer | Failure] = {}
    askable: list[tuple[Question, EncodedQuestion]] = []
    room, most = (room_for_question(paradigm, one) for one in (settings, replace(settings, max_tokens=1)))
    for question in questions:
        encoded = encode_question(paradigm.backbone, question, most)
        if not isinstance(encoded, Failure) and len(encoded.token_ids) > room:
            encoded = _without_room(len(encoded.token_ids), most, settings)
        if isinstance(encoded, Failure):
            answers[question.key] = encoded
        else:
            askable.append((question, encoded))
    reasoned = reason(paradigm, [encoded for _, encoded in askable], settings)
    return answers | {
        question.key: _answer(one, settings) for (question, _), one in zip(askable, reasoned, strict=True)
    }


def _without_room(question_tokens: int, most: int, settings: ReasoningSettings) -> Failure:
    message = (
        f"the question takes {question_tokens:,} tokens, which leaves no room for a rationale of "
        f"{settings.max_tokens:,}; allow at most {most - question_tokens + 1:,}"
    )
    return Failure(Status.TOO_LONG, message)


def _answer(reasoned: ReasonedAnswer, settings: ReasoningSettings) -> Answer | Failure:
    texts = [one.text for one in reasoned.samples if one.text is not None]
    missing = None if texts else f"no rationale ended within {settings.max_tokens} tokens; allow more"
    given = [one.log_odds for one in reasoned.samples if one.log_odds is not None]
    if not given:
        return Failure(Status.UNFINISHED_RATIONALE, missing or "", reasoned.cost)
    log_odds = given[0]
    if len(given) > 1 and all(math.isfinite(one) for one in given):
        log_odds = mean_answer_log_odds(torch.tensor(given, dtype=torch.float64)[:, None]).item()
    elif not all(math.isfinite(one) for one in given):
        log_odds = math.nan
    masses = [one.leaked_mass for one in reasoned.samples if one.leaked_mass is not None]
    mass = sum(masses) / len(masses) if masses else None
    return finite_answer(log_odds, mass, reasoned.cost, rationale=texts[0] if texts else None, note=missing)
