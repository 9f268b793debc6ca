"""Candidates of one prompt in order of quality, by a full round robin.

Source:
    RewardDance, arXiv:2509.08826, section 3.3: candidates are ranked by their number of pairwise wins.
    Differs: equal win counts are ordered by mean reward. With both orders asked, a pair is judged once, because the
    reward of the swapped pair is its negative; with one order, the earlier candidate is always the reference image,
    so that a preference for a position becomes a preference for early or late candidates.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from rewarddance.core.errors import MediaError
from rewarddance.core.media import MediaSource
from rewarddance.core.types import Judgement, JudgementRequest, Ranking
from rewarddance.rewards.judging import judge_requests
from rewarddance.rewards.media_cache import MediaCache
from rewarddance.rewards.paradigm import Paradigm


def rank_candidates(
    paradigm: Paradigm,
    prompt: str,
    candidates: Sequence[MediaSource],
    instruction: str | Path | None = None,
    source_media: MediaSource | None = None,
) -> Ranking:
    """Ranks by win count, then mean reward, then index.

    Args:
        paradigm: The reward model.
        prompt: What asked for the candidates.
        candidates: Images or clips; any number.
        instruction: Name or file of criteria; None for the model's own.
        source_media: What an edit or an image-to-video prompt starts from.

    Returns:
        Candidates that could not be judged stand at the end and have neither wins nor a reward. A single readable
        candidate has won against nobody: 0 wins, and no reward.
    """
    media = MediaCache(paradigm.backbone, paradigm.record.media.frames_per_clip, capacity=max(64, len(candidates)))
    readable = [_is_readable(media, candidate) for candidate in candidates]
    pairs = list(combinations(range(len(candidates)), 2))
    requests = [
        JudgementRequest(
            prompt,
            candidates[later],
            candidates[earlier],
            instruction,
            id=f"{later} against {earlier}",
            source_media=source_media,
        )
        for earlier, later in pairs
    ]
    judgements = judge_requests(paradigm, requests, media=media, window=max(1, len(requests)))
    results: list[list[float]] = [[] for _ in candidates]
    for (earlier, later), judgement in zip(pairs, judgements, strict=True):
        if judgement.reward is not None:
            results[later].append(judgement.reward)
            results[earlier].append(-judgement.reward)
    is_alone = sum(readable) == 1
    judged = [is_readable and (is_alone or bool(own)) for is_readable, own in zip(readable, results, strict=True)]
    return _ranking(results, judged, judgements)


def _ranking(results: Sequence[Sequence[float]], judged: Sequence[bool], judgements: Sequence[Judgement]) -> Ranking:
    """Puts rewards of each candidate against its opponents in order."""
    wins = tuple(_wins(own) if counts else None for own, counts in zip(results, judged, strict=True))
    rewards = tuple(sum(own) / len(own) if own else None for own in results)
    best_first = sorted(
        range(len(results)),
        key=lambda index: (not judged[index], -(wins[index] or 0.0), -(rewards[index] or 0.0), index),
    )
    return Ranking(tuple(best_first), wins, rewards, tuple(judgements))


def _wins(rewards: Sequence[float]) -> float:
    return float(sum(1.0 if reward > 0 else 0.5 if reward == 0 else 0.0 for reward in rewards))


def _is_readable(media: MediaCache, candidate: MediaSource) -> bool:
    try:
        media.get(candidate)
    except MediaError:
        return False
    return True
