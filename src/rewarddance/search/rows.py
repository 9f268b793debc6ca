"""A search as one line of JSON: everything but the pixels."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rewarddance.core.types import Status
from rewarddance.data.prompts import PromptItem
from rewarddance.rewards.chat_replies import FailureKind
from rewarddance.search.budget import Budget
from rewarddance.search.results import SearchResult
from rewarddance.search.watch import Watch

UNREAD = FailureKind.NO_ANSWER.value


def row_of(
    item: PromptItem,
    result: SearchResult,
    watch: Watch | None,
    pictures: Mapping[int, str],
    files: Mapping[str, str],
    unanswered: int = 0,
) -> dict[str, Any]:
    """What is stored of a prompt.

    Args:
        item: The prompt.
        result: Its search.
        watch: What the held-out judge saw, if there is one.
        pictures: Files of the candidates that are kept, by index.
        files: Every file of the prompt with its sha256.
        unanswered: Judgements to which there was no answer, those of the held-out judge included.
    """
    places = {index: place for place, index in enumerate(result.order, start=1)}
    candidates = [
        {
            "index": index,
            "place": places.get(index),
            **asdict(candidate.opinion),
            "seed": candidate.seed,
            "lineage": list(candidate.lineage),
            "weight": candidate.weight,
            "picture": pictures.get(index),
        }
        for index, candidate in enumerate(result.candidates)
    ]
    looks = [
        {
            "round": look.round,
            "sigma": look.sigma,
            "lineage": list(look.lineage),
            "copies": look.copies,
            **asdict(look.opinion),
        }
        for look in result.looks
    ]
    return {
        "id": item.id,
        "prompt": item.prompt,
        "winner": result.order[0] if result.order else None,
        "problem": result.problem,
        "failed_judgements": result.failed_judgements,
        "unanswered_judgements": unanswered,
        "stated": asdict(result.stated),
        "spent": asdict(result.spent),
        "watch": None if watch is None else asdict(watch),
        "files": dict(files),
        "candidates": candidates,
        "looks": looks,
    }


def is_readable(row: Mapping[str, Any]) -> bool:
    """Whether a stored row has all that is read of it, each of its type."""
    try:
        budget_of(row["stated"])
        budget_of(row["spent"])
        known = [failures_in(row), unanswered_in(row), row["id"], row["winner"], row["problem"]]
        known += [(one["picture"], one["reward"]) for one in row["candidates"]]
        known += [dict(row.get("files", {})), None if row["watch"] is None else watch_of(row["watch"])]
        return bool(known) and isinstance(row["prompt"], str) and isinstance(row["failed_judgements"], int)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def unanswered_in(row: Mapping[str, Any]) -> int:
    """Judgements of a stored row to which there was no answer; while there are any, the prompt counts as missing."""
    return int(row.get("unanswered_judgements", 0))


def failures_in(row: Mapping[str, Any]) -> Counter[str]:
    """How the candidates of a stored row failed: a status, or for the failures of a service their own name."""
    failed = [one for one in row["candidates"] if one["status"] != Status.OK]
    return Counter(_cause(one["status"], one["message"]) for one in failed)


def _cause(status: str, message: str | None) -> str:
    name = (message or "").partition(":")[0]
    return name if status == Status.FAILED and name in set(FailureKind) else status


def budget_of(values: Mapping[str, int]) -> Budget:
    """A budget as it was stored."""
    return Budget(**values)


def watch_of(values: Mapping[str, Any]) -> Watch:
    """What the judge saw, as it was stored."""
    return Watch(**{**values, "spent": budget_of(values["spent"])})
