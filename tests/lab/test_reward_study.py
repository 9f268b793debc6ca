import pytest

from rewarddance.lab.reward_study import markdown_table, over_seeds


def test_a_mean_over_seeds_has_the_t_interval_of_its_seeds() -> None:
    # mean 0.8; standard error 0.1 / sqrt(3) = 0.0577; t(0.975, 2) = 4.303; half width 0.248
    assert over_seeds([0.7, 0.8, 0.9]) == "0.800 [0.552, 1.048]"


def test_a_single_seed_has_no_interval() -> None:
    assert over_seeds([0.7]) == "0.700"


@pytest.fixture
def rows() -> list[dict[str, object]]:
    def split(accuracy: float) -> dict[str, object]:
        share = {"estimate": accuracy, "low": 0.0, "high": 1.0}
        return {
            "accuracy": share,
            "accuracy_one_order": share,
            "share_inconsistent_one_order": share,
            "share_inconsistent_two_orders": 0.0,
        }

    return [
        {
            "size": size,
            "kind": "pairwise",
            "comparisons": 4000,
            "seed": seed,
            "test_in": split(0.9),
            "test_out": split(0.8),
        }
        for size in ("nano", "small")
        for seed in (0, 1)
    ]


def test_the_table_has_one_line_a_cell(rows: list[dict[str, object]]) -> None:
    lines = markdown_table(rows).splitlines()
    assert len(lines) == 2 + 2
    assert lines[2].startswith("| nano | pairwise | 4000 | 2 | 0.900 [0.900, 0.900] | 0.800 [0.800, 0.800] |")
