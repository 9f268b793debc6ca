"""Candidates of one prompt in order of quality, by a full round robin.

Source:
    RewardDance, arXiv:2509.08826, section 3.3: candidates are ranked by their number of pairwise wins.
    Differs: equal win counts are ordered by mean reward, and where pairs could not be judged, the share of the judged
        pairs that were won counts, because a failed pair is no loss. With both orders asked, a pair is judged once,
        because the reward of the swapped pair is its negative; with one order, the earlier candidate is always the
        reference image, so that a preference for a position becomes one for early or late candidates.
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
    """Ranks by win count (where pairs failed, by the share of wins), then mean reward, then index.

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
    return ranking_of(results, judged, judgements)


def ranking_of(results: Sequence[Sequence[float]], judged: Sequence[bool], judgements: Sequence[Judgement]) -> Ranking:
    """Puts candidates in order.

    Args:
        results: Rewards of each candidate against the opponents that it was judged against.
        judged: Which candidates have a place among the judged ones.
        judgements: That the results come from.
    """
    wins = tuple(_wins(own) if counts else None for own, counts in zip(results, judged, strict=True))
    rewards = tuple(sum(own) / len(own) if own else None for own in results)
    shares = [(count or 0.0) / max(1, len(own)) for count, own in zip(wins, results, strict=True)]
    best_first = sorted(
        range(len(results)), key=lambda index: (not judged[index], -shares[index], -(rewards[index] or 0.0), index)
    )
    failed = sum(not judgement.is_ok for judgement in judgements)
    return Ranking(tuple(best_first), wins, rewards, tuple(judgements), failed)


def _wins(rewards: Sequence[float]) -> float:
    return float(sum(1.0 if reward > 0 else 0.5 if reward == 0 else 0.0 for reward in rewards))


def _is_readable(media: MediaCache, candidate: MediaSource) -> bool:
    try:
        media.get(candidate)
    except MediaError:
        return False
    return True
