"""From answers of the engine to the JSON of a response."""

import math
from collections.abc import Mapping

from rewarddance.core.types import Judgement, Ranking
from rewarddance.serving.engine import Answer
from rewarddance.serving.refusals import RefusalCode, RefusedError
from rewarddance.serving.work import NextToken, TokenChance


def judge_answer(answer: Answer, model: str) -> Mapping[str, object]:
    """The JSON of `JudgeAnswer`."""
    assert isinstance(answer, Judgement)
    assert answer.score is not None
    assert answer.reward is not None
    if not (math.isfinite(answer.score) and math.isfinite(answer.reward)):
        raise RefusedError(RefusalCode.NON_FINITE)
    return {
        "score": answer.score,
        "reward": answer.reward,
        "order_gap": answer.order_gap,
        "leaked_mass": answer.leaked_mass,
        "instruction": answer.instruction,
        "model": model,
    }


def rank_answer(answer: Answer, model: str) -> Mapping[str, object]:
    """The JSON of `RankAnswer`."""
    assert isinstance(answer, Ranking)
    return {
        "order": list(answer.order),
        "wins": list(answer.wins),
        "rewards": list(answer.rewards),
        "failed_comparisons": answer.failed_judgements,
        "model": model,
    }


def chat_answer(answer: Answer, model: str) -> Mapping[str, object]:
    """A chat completion of one token."""
    assert isinstance(answer, NextToken)
    chosen = {**_chance(answer.chosen), "top_logprobs": [_chance(chance) for chance in answer.alternatives]}
    return {
        "id": "chatcmpl-rewarddance",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.chosen.token},
                "logprobs": {"content": [chosen]} if answer.alternatives else None,
                "finish_reason": "length",
            }
        ],
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": 1,
            "total_tokens": answer.prompt_tokens + 1,
        },
    }


def _chance(chance: TokenChance) -> dict[str, object]:
    return {"token": chance.token, "logprob": chance.log_probability, "bytes": list(chance.token.encode())}
