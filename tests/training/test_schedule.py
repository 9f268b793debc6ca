import pytest

from rewarddance.training.schedule import cosine_with_warmup


def test_the_rate_rises_in_a_straight_line_from_the_first_update():
    # 4 of 20 updates warm up: 1/4, 2/4, 3/4, 4/4.
    assert [cosine_with_warmup(step, 20, 0.2) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_half_way_down_the_rate_is_one_half():
    # Warm-up 4, then 16 updates: the middle is update 12.
    assert cosine_with_warmup(12, 20, 0.2) == pytest.approx(0.5)


def test_without_warmup_the_first_update_has_the_full_rate():
    assert cosine_with_warmup(0, 10, 0.0) == 1.0


def test_the_rate_is_zero_only_after_the_last_update():
    assert cosine_with_warmup(9, 10, 0.0) > 0
    assert cosine_with_warmup(10, 10, 0.0) == 0.0


def test_a_run_of_one_update_has_the_full_rate():
    assert cosine_with_warmup(0, 1, 0.05) == 1.0
