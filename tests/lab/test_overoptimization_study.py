import json

import numpy as np
import pytest

from rewarddance.core.seeding import numpy_rng
from rewarddance.evaluation.overoptimization import best_of_n_curve
from rewarddance.lab.overoptimization_study import curve_cells, write_curve_results


def test_cells_cover_every_reward_model_of_a_seed_before_the_next():
    cells = curve_cells((0, 1))
    assert len(cells) == 18
    assert {cell.seed for cell in cells[:9]} == {0}


def test_the_summary_is_the_mean_over_seeds(tmp_path):
    rng = numpy_rng(0, "samples")
    gold = rng.normal(size=(6, 8))
    facets = {"size": "nano", "paradigm": "scalar"}
    curves = [
        best_of_n_curve(f"nano-scalar-{seed}", gold + noise, gold, facets={**facets, "seed": str(seed)})
        for seed, noise in enumerate((0.0, rng.normal(size=gold.shape)))
    ]
    summary = write_curve_results(tmp_path / "curves.json", curves)["nano scalar"]
    # the best of all eight by gold itself is the largest of each row; the other model's favourite is some other
    perfect = float(np.mean(gold.max(1) - gold.mean(1)))
    other = curves[1].points[-1].gold_gain.estimate
    assert summary["gold_gain"]["8"] == pytest.approx((perfect + other) / 2)
    assert summary["seeds"] == [0, 1]
    assert len(json.loads((tmp_path / "curves.json").read_text())["curves"]) == 2
