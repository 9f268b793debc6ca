import math

import pytest
import torch

from rewarddance.objectives.answer_token import (
    answer_cross_entropy,
    answer_log_odds,
    label_logits,
    leaked_mass,
)

YES = torch.tensor([0, 1])
NO = torch.tensor([2])


def _logits(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def test_log_odds_sum_the_mass_of_every_spelling():
    # P(yes) = 0.3 + 0.3, P(no) = 0.2, 0.2 elsewhere: odds 3.
    assert answer_log_odds(_logits(0.3, 0.3, 0.2, 0.2), YES, NO).item() == pytest.approx(math.log(3))


def test_log_odds_do_not_see_the_rest_of_the_vocabulary():
    quiet, loud = _logits(0.3, 0.3, 0.2, 0.2), _logits(0.3, 0.3, 0.2, 50.0)
    torch.testing.assert_close(answer_log_odds(quiet, YES, NO), answer_log_odds(loud, YES, NO))


def test_log_odds_do_not_change_when_all_logits_shift():
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(answer_log_odds(logits, YES, NO), answer_log_odds(logits + 7.0, YES, NO))


def test_log_odds_are_finite_for_extreme_logits():
    assert answer_log_odds(torch.tensor([[1e4, -1e4, -1e4]]), YES, NO).item() == pytest.approx(2e4)


def test_leaked_mass_is_one_minus_the_mass_of_the_answers():
    assert leaked_mass(_logits(0.3, 0.3, 0.2, 0.2), YES, NO).item() == pytest.approx(0.2)


def test_leaked_mass_equals_the_full_softmax_outside_the_answers():
    logits = torch.randn(6, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 1 - logits.softmax(-1)[:, :3].sum(-1)
    torch.testing.assert_close(leaked_mass(logits, YES, NO), expected)


def test_leaked_mass_is_never_negative():
    assert leaked_mass(torch.tensor([[30.0, 30.0, 30.0, -90.0]]), YES, NO).item() == 0.0


def test_cross_entropy_has_the_values_worked_out_by_hand():
    # z = ln 4: P(yes) = 0.8.
    loss = answer_cross_entropy(torch.full((3,), math.log(4)), torch.tensor([1.0, 0.0, 0.25]))
    expected = [-math.log(0.8), -math.log(0.2), -0.25 * math.log(0.8) - 0.75 * math.log(0.2)]
    assert loss.tolist() == pytest.approx(expected)


def test_cross_entropy_is_next_token_cross_entropy_when_nothing_leaks():
    logits = _logits(0.7, 0.1, 0.2)
    log_odds = answer_log_odds(logits, YES, NO)
    # P(yes) = 0.8 of a vocabulary that has nothing but yes and no.
    assert answer_cross_entropy(log_odds, torch.ones(1)).item() == pytest.approx(-math.log(0.8), rel=1e-5)


def test_cross_entropy_with_smoothing_asks_for_less_than_certainty():
    # s = 0.2, t = 1 -> 0.9; z = 0: ln 2 whatever the target.
    assert answer_cross_entropy(torch.zeros(1), torch.ones(1), 0.2).item() == pytest.approx(math.log(2))
    # At z = ln 4: -0.9 ln 0.8 - 0.1 ln 0.2.
    expected = -0.9 * math.log(0.8) - 0.1 * math.log(0.2)
    assert answer_cross_entropy(torch.tensor([math.log(4)]), torch.ones(1), 0.2).item() == pytest.approx(expected)


def test_label_logits_are_the_rows_of_the_whole_product():
    rng = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(3, 8, generator=rng), torch.randn(20, 8, generator=rng)
    torch.testing.assert_close(label_logits(hidden, head[[4, 7]]), (hidden @ head.T)[:, [4, 7]])


def test_label_logits_are_float32_inside_autocast():
    rng = torch.Generator().manual_seed(0)
    hidden, rows = torch.randn(3, 64, generator=rng), torch.randn(2, 64, generator=rng)
    outside = label_logits(hidden, rows)
    with torch.autocast("cpu", torch.bfloat16):
        inside = label_logits(hidden, rows)
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_reduced_in_float32(dtype: torch.dtype):
    # logsumexp of two equal logits of 8 is 8 + ln 2 = 8.693; bf16 numbers there are 0.0625 apart.
    log_odds = answer_log_odds(torch.tensor([[8.0, 8.0, 8.0]], dtype=dtype), YES, NO)
    assert log_odds.dtype is torch.float32
    assert log_odds.item() == pytest.approx(math.log(2), abs=1e-6)
