import math

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from rewarddance.objectives.distillation import answer_divergence, mean_answer_log_odds, with_teacher


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_samples_are_averaged_as_probabilities() -> None:
    # (0.9 + 0.5) / 2 = 0.7; the mean of the log-odds would be a probability of 0.75.
    log_odds = torch.tensor([[logit(0.9)], [logit(0.5)]], dtype=torch.float64)
    assert mean_answer_log_odds(log_odds).sigmoid().item() == pytest.approx(0.7)


def test_one_sample_is_its_own_mean() -> None:
    values = torch.tensor([[-3.0, 0.0, 4.0]])
    torch.testing.assert_close(mean_answer_log_odds(values), values[0])


def test_certain_samples_stay_finite() -> None:
    # Both say yes with 1 - e^-200; in probabilities this is 1, and its log-odds would be infinite.
    assert mean_answer_log_odds(torch.tensor([[200.0], [200.0]])).item() == pytest.approx(200.0)


def test_swapping_yes_and_no_changes_the_sign() -> None:
    values = torch.tensor([[1.0], [-4.0], [0.5]])
    assert mean_answer_log_odds(-values).item() == pytest.approx(-mean_answer_log_odds(values).item())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_divergence_is_that_of_two_coins(temperature: float) -> None:
    student, teacher = torch.tensor([0.5, -2.0]), torch.tensor([1.5, 3.0])
    coins = (Bernoulli(logits=value / temperature) for value in (teacher, student))
    expected = temperature**2 * kl_divergence(*coins)
    torch.testing.assert_close(answer_divergence(student, teacher, temperature), expected)


def test_a_student_that_agrees_has_nothing_to_learn() -> None:
    assert answer_divergence(torch.tensor([2.0]), torch.tensor([2.0])).item() == pytest.approx(0.0, abs=1e-7)


def test_the_gradient_is_the_difference_of_probabilities() -> None:
    student, teacher = torch.tensor([0.3], requires_grad=True), torch.tensor([2.0], requires_grad=True)
    answer_divergence(student, teacher).sum().backward()
    assert student.grad is not None
    # sigmoid(0.3) - sigmoid(2) = 0.574443 - 0.880797
    assert student.grad.item() == pytest.approx(-0.306354, abs=1e-5)
    assert teacher.grad is None


def test_a_certain_teacher_gives_a_finite_loss() -> None:
    # log 1 - log sigmoid(-300)
    assert answer_divergence(torch.tensor([-300.0]), torch.tensor([300.0])).item() == pytest.approx(300.0)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        answer_divergence(torch.tensor([1.0]), torch.tensor([1.0]), temperature=0.0)


def test_the_teacher_takes_its_share_where_it_answered() -> None:
    loss, divergence = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0])
    # 0.75 x 1 + 0.25 x 3 = 1.5.
    assert with_teacher(loss, divergence, torch.tensor([True, False]), 0.25).tolist() == [1.5, 1.0]
