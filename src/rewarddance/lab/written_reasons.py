"""What a model's own words say: its rationales, read by the lab's reader, against gold.

A model that reasons first can fail at writing or at reading what it wrote. This tells the two apart.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewarddance.evaluation.judgement_rows import Answer, JudgementRow
from rewarddance.lab.comparisons import Split
from rewarddance.lab.learning import MIN_GOLD_DIFFERENCE, SPLIT_NAMES
from rewarddance.lab.paired_accuracy import SeedRows
from rewarddance.lab.seeds import seed_interval
from rewarddance.lab.teacher import read_choice

_UNDECIDED = "0"


def words_right(answers: SeedRows, split: Split) -> dict[str, Any] | None:
    """Share of rationales that speak for the better picture where gold differs clearly, over seeds.

    Words that speak for neither count one half; a missing or unfinished rationale counts as wrong.

    Args:
        answers: Of a model that reasons first, by seed.
        split: In or out of the domain.

    Returns:
        None when gold differs clearly nowhere.
    """
    credits = [_credits(rows, split) for rows in answers.values()]
    shares = [float(np.mean(of_seed)) for of_seed in credits if of_seed]
    return seed_interval(shares) if shares else None


def _credits(rows: Sequence[JudgementRow], split: Split) -> list[float]:
    found: list[float] = []
    for row in rows:
        if row.facets["split"] != SPLIT_NAMES[split] or row.gold is None or abs(row.gold) < MIN_GOLD_DIFFERENCE:
            continue
        better = ("2", "1") if row.gold > 0 else ("1", "2")
        found += [_credit(answer, number) for answer, number in zip((row.forward, row.backward), better, strict=True)]
    return found


def _credit(answer: Answer | None, better: str) -> float:
    if answer is None or answer.rationale is None or answer.log_odds is None:
        return 0.0
    said = read_choice(answer.rationale)
    return 0.5 if said == _UNDECIDED else float(said == better)
