"""Two ways of judging on the same comparisons of the lab: accuracy against gold, and their difference, over seeds.

Two intervals stand beside each other. That over seeds (t) says how the difference varies with what was learned from and
with first weights; that over prompts (bootstrap of whole prompts, all seeds together) says how it varies with what is
asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from rewarddance.core.seeding import numpy_rng
from rewarddance.evaluation.judgement_rows import JudgementRow
from rewarddance.evaluation.model_comparison import compare_models, right_choices
from rewarddance.lab.comparisons import Split
from rewarddance.lab.learning import MIN_GOLD_DIFFERENCE, SPLIT_NAMES
from rewarddance.lab.seeds import seed_interval
from rewarddance.metrics.bootstrap import bootstrap_ratio

SeedRows = Mapping[int, Sequence[JudgementRow]]
"""What one way answered, by seed; rows of both test splits."""


def accuracy_and_gain(base: SeedRows, own: SeedRows, split: Split) -> dict[str, Any]:
    """Accuracy of a way, and how much higher it is than that of another.

    Args:
        base: What it is compared with.
        own: The way itself; only seeds of both count.
        split: In or out of the domain.

    Returns:
        `accuracy` and `gain` over seeds; `gain_by_prompt` over prompts, with the p-value of swapping the two.
    """
    seeds = [seed for seed in own if seed in base]
    asked: dict[str, Any] = {"against": "gold", "min_gold_difference": MIN_GOLD_DIFFERENCE}
    each = [compare_models(_of(base[seed], split), _of(own[seed], split), **asked) for seed in seeds]
    pooled = compare_models(_pooled(base, seeds, split), _pooled(own, seeds, split), **asked)
    return {
        "accuracy": seed_interval([one.accuracy_second for one in each]),
        "gain": seed_interval([one.difference.interval.estimate for one in each]),
        "gain_by_prompt": asdict(pooled.difference.interval),
        "p_value": pooled.difference.p_value,
    }


def share_kept(base: SeedRows, teacher: SeedRows, student: SeedRows, split: Split) -> dict[str, Any] | None:
    """Share of a teacher's gain over a base that its student has as well, with its interval over prompts.

    Returns:
        None when the teacher gains exactly nothing; without ends where its gain is not surely above 0.
    """
    seeds = [seed for seed in student if seed in teacher and seed in base]
    pooled = [_pooled(way, seeds, split) for way in (base, teacher, student)]
    low, high, kept = (right_choices(rows, "gold", MIN_GOLD_DIFFERENCE) for rows in pooled)
    if np.nansum(high - low) == 0:
        return None
    _, clusters = np.unique([row.cluster for row in pooled[0]], return_inverse=True)
    return asdict(bootstrap_ratio(kept - low, high - low, clusters, numpy_rng(0, "share kept", split)))


def _of(rows: Sequence[JudgementRow], split: Split) -> list[JudgementRow]:
    return sorted((row for row in rows if row.facets["split"] == SPLIT_NAMES[split]), key=lambda row: row.id)


def _pooled(way: SeedRows, seeds: Sequence[int], split: Split) -> list[JudgementRow]:
    """Rows of all seeds, which number their comparisons alike."""
    return [replace(row, id=f"{seed}/{row.id}") for seed in seeds for row in _of(way[seed], split)]
