import pytest

from rewarddance.lab.alignment_study import alignment_cells, guarded_summary
from rewarddance.lab.seeds import mean_and_half_width


def test_cells_come_seed_by_seed_so_that_a_study_cut_short_has_whole_columns():
    cells = alignment_cells((0, 1))
    assert len(cells) == 2 * 3 * 3 * 3
    assert {cell.seed for cell in cells[:27]} == {0}
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_half_width_is_that_of_the_t_distribution():
    # standard error 0.1 / sqrt(3) = 0.0577; t(0.975, 2) = 4.303; half width 0.248
    assert mean_and_half_width([0.7, 0.8, 0.9]) == pytest.approx((0.8, 0.248), abs=5e-4)


def test_the_summary_is_of_gains_over_seeds():
    rows = [
        {"seed": seed, "gold_before": 0.5, "gold_after": 0.5 + gain, "diversity_before": 0.4, "diversity_after": 0.36}
        for seed, gain in enumerate((0.09, 0.10, 0.11))
    ]
    # gains 0.09, 0.10, 0.11: standard error 0.00577, t 4.303, half width 0.0248; 0.36 / 0.4 = 0.9
    summary = guarded_summary(rows)
    assert summary["gold_gain"] == pytest.approx(0.10)
    assert summary["gold_gain_low"] == pytest.approx(0.0752, abs=1e-4)
    assert summary["gold_gain_high"] == pytest.approx(0.1248, abs=1e-4)
    assert summary["diversity_ratio"] == pytest.approx(0.9)
    assert summary["seeds"] == [0, 1, 2]
