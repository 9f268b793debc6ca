import json
from pathlib import Path

import pytest

from rewarddance.lab.alignment_outcomes import outcome, outcome_summary, outcome_tables, rank_correlation


def run(seed: int, gold: list[float], spread: float, size: str = "nano") -> dict:
    evaluations = [
        {"extra": {"gold": value}, "spread": width, "diversity": 0.4, "proxy": float(place)}
        for place, (value, width) in enumerate(zip(gold, [1.0] * (len(gold) - 1) + [spread], strict=True))
    ]
    return {"size": size, "kind": "pairwise", "way": "refl", "seed": seed, "evaluations": evaluations}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for seed in range(4):
        folder = tmp_path / f"nano-pairwise-4000-{seed}"
        folder.mkdir()
        splits = {
            split: {"accuracy": {"estimate": 0.8 + 0.01 * seed + extra}}
            for split, extra in (("test_in", 0.05), ("test_out", 0))
        }
        (folder / "row.json").write_text(json.dumps(splits))
    return tmp_path


def test_gains_and_the_fall_are_those_of_the_curve(models: Path):
    found = outcome(run(0, [0.5, 0.62, 0.57], 0.4), models)
    assert found["peak"] == pytest.approx(0.12)
    assert found["end"] == pytest.approx(0.07)
    assert found["fall"] == pytest.approx(0.05)
    assert (found["spread"], found["diversity"], found["proxy"]) == (0.4, 1.0, 2.0)
    assert (found["accuracy_in"], found["accuracy_out"]) == pytest.approx((0.85, 0.80))


def test_what_rises_with_the_end_is_correlated_with_it_and_equal_values_are_not(models: Path):
    outcomes = [outcome(run(seed, [0.5, 0.5 + 0.01 * seed], 1.0), models) for seed in range(4)]
    assert rank_correlation(outcomes, "accuracy_out", "end")["estimate"] == pytest.approx(1)
    assert rank_correlation(outcomes, "spread", "end")["estimate"] is None
    summary = outcome_summary(outcomes)["refl"]
    assert summary["by_size"]["nano"]["end"]["mean"] == pytest.approx(0.015)
    assert summary["tells_end"]["accuracy_out"]["estimate"] == pytest.approx(1)


def test_tables_have_a_line_for_each_size_and_each_paradigm(models: Path):
    outcomes = [outcome(run(seed, [0.5, 0.5 + 0.01 * seed], 1.0), models) for seed in range(4)]
    lines = outcome_tables(outcomes).splitlines()
    assert lines[2].startswith("| refl | nano | 4 | 0.015 [")
    assert lines[3].startswith("| refl | pairwise | 4 |")
    assert lines[-2].startswith("| refl | gold, last evaluation | 1.00 [")
