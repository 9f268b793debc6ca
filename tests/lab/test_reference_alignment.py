from pathlib import Path

import pytest

from rewarddance.lab.alignment import LabAlignment, alignment_config
from rewarddance.lab.reference_alignment import CANDIDATES, ReferenceAlignment, reference_alignment_summary


def row(kind, seed, *gold):
    return {"kind": kind, "seed": seed, "gold": list(gold), "gold_before": 0.5}


def test_gains_are_over_the_same_prompts_and_seeds():
    rows = [
        row("best_of_2", 0, 0.5, 0.7),
        row("best_of_2", 1, 0.6, 0.6),
        row("best_of_16", 0, 0.6, 0.8),
        row("best_of_16", 1, 0.7, 0.7),
    ]
    summary = reference_alignment_summary(rows)
    assert list(summary) == ["best_of_2", "best_of_16"]
    assert summary["best_of_16"]["gold"]["mean"] == pytest.approx(0.7)
    gain = summary["best_of_16"]["over_best_of_2"]
    # every prompt gains 0.1, so every draw of prompts does
    assert (gain["estimate"], gain["low"], gain["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert (gain["n"], gain["n_clusters"]) == (4, 2)
    assert summary["best_of_2"]["over_best_of_2"]["estimate"] == 0
    assert summary["best_of_2"]["over_worst_of_16"] is None


def test_a_seed_that_lacks_the_base_has_no_gain():
    assert reference_alignment_summary([row("best_of_6", 0, 0.5)])["best_of_6"]["over_best_of_2"] is None


def test_runs_come_seed_by_seed_in_every_kind():
    runs = ReferenceAlignment(Path("a"), Path("m"), (0, 1)).runs
    assert [run.kind for run in runs] == [*CANDIDATES, *CANDIDATES]
    assert len({run.name for run in runs}) == len(runs)


def test_the_worst_are_asked_for_by_the_runs_config(tmp_path: Path):
    run = LabAlignment(tmp_path, tmp_path, tmp_path, tmp_path, (), references_used=2, references_kept="bottom")
    assert alignment_config(run).references.kept == "bottom"
