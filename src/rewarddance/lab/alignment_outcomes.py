"""What the runs of the alignment study came to: by way, size and paradigm, and what tells their end in advance.

Source:
    RewardDance, arXiv:2509.08826: Table 2 and section 4.2 (accuracy out of domain tells the gain), Table 7 (paradigms),
    Figures 2 and 5 (spread late in training tells the gain).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rewarddance.core.seeding import numpy_rng
from rewarddance.lab.learning import TEST_SPLITS
from rewarddance.lab.seeds import mean_and_half_width, seed_interval
from rewarddance.metrics.ranking import spearman

FIGURES = {
    "peak": "gold, best evaluation",
    "end": "gold, last evaluation",
    "fall": "fall from best to last",
    "spread": "reward spread, of the base's",
    "diversity": "diversity, of the base's",
}
"""Gains and falls of gold; spread and diversity at the last evaluation as shares of the first."""

PREDICTORS = ("accuracy_in", "accuracy_out", "spread", "diversity", "proxy")
_RESAMPLES = 2000


def outcome(run: Mapping[str, Any], models: Path) -> dict[str, Any]:
    """What became of one run.

    Args:
        run: A row of `alignment.json`.
        models: Folder of the runs of `lab study paradigms`, for the accuracies of the reward model.
    """
    evaluations = run["evaluations"]
    gold = [row["extra"]["gold"] for row in evaluations]
    first, last = evaluations[0], evaluations[-1]
    stored = json.loads((models / f"{run['size']}-{run['kind']}-4000-{run['seed']}" / "row.json").read_text())
    accuracy_in, accuracy_out = (stored[split]["accuracy"]["estimate"] for split in TEST_SPLITS)
    return {
        **{name: run[name] for name in ("size", "kind", "way", "seed")},
        "peak": max(gold) - gold[0],
        "end": gold[-1] - gold[0],
        "fall": max(gold) - gold[-1],
        "spread": last["spread"] / first["spread"],
        "diversity": last["diversity"] / first["diversity"],
        "proxy": last["proxy"] - first["proxy"],
        "accuracy_in": accuracy_in,
        "accuracy_out": accuracy_out,
    }


def outcome_summary(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over runs with 95 % t intervals by way and size and by way and paradigm; and rank correlations by way."""
    return {
        way: {
            "runs": len(own),
            "by_size": _by(own, "size"),
            "by_paradigm": _by(own, "kind"),
            "tells_end": {name: rank_correlation(own, name, "end") for name in PREDICTORS},
            "tells_fall": {name: rank_correlation(own, name, "fall") for name in PREDICTORS},
        }
        for way, own in _groups(outcomes, "way").items()
    }


def rank_correlation(outcomes: Sequence[Mapping[str, Any]], predictor: str, target: str) -> dict[str, Any]:
    """Spearman's rank correlation over runs, with a 95 % percentile bootstrap interval that draws reward models.

    Runs of one way share their base generator, prompts and references; what differs is the reward model.
    """
    values = np.array([[row[predictor], row[target]] for row in outcomes], dtype=float)
    estimate = spearman(values[:, 0], values[:, 1])
    rng = numpy_rng(0, "rank correlation", predictor, target)
    drawn = [_drawn(values, rng) for _ in range(_RESAMPLES)] if len(values) > 2 else []
    known = [one for one in drawn if one is not None]
    low, high = np.quantile(known, [0.025, 0.975]) if known else (None, None)
    return {
        "estimate": estimate,
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
    }


def outcome_tables(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """The same as Markdown."""
    head = ("way", "reward model", "runs", *FIGURES.values())
    lines = [_line(head), _line(["---"] * len(head))]
    for way, own in _groups(outcomes, "way").items():
        for key in ("size", "kind"):
            for name, group in _groups(own, key).items():
                figures = [_with_interval([row[figure] for row in group]) for figure in FIGURES]
                lines.append(_line([way, name, str(len(group)), *figures]))
    lines += ["", _line(["way", "tells the end of gold, rank correlation", *PREDICTORS])]
    lines.append(_line(["---"] * (2 + len(PREDICTORS))))
    for way, own in _groups(outcomes, "way").items():
        for target in ("end", "fall"):
            found = [rank_correlation(own, name, target) for name in PREDICTORS]
            lines.append(_line([way, FIGURES[target], *map(_interval, found)]))
    return "\n".join(lines)


def _drawn(values: Float[np.ndarray, "runs two"], rng: np.random.Generator) -> float | None:
    chosen = values[rng.integers(len(values), size=len(values))]
    return spearman(chosen[:, 0], chosen[:, 1])


def _by(outcomes: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    return {
        name: {"runs": len(own), **{figure: seed_interval([row[figure] for row in own]) for figure in FIGURES}}
        for name, own in _groups(outcomes, key).items()
    }


def _groups(outcomes: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[Mapping[str, Any]]]:
    names = dict.fromkeys(str(row[key]) for row in outcomes)
    return {name: [row for row in outcomes if row[key] == name] for name in names}


def _with_interval(values: Sequence[float]) -> str:
    mean, half = mean_and_half_width(values)
    return f"{mean:.3f}" if len(values) < 2 else f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def _interval(found: Mapping[str, Any]) -> str:
    if found["estimate"] is None or found["low"] is None:
        return "-"
    return f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
