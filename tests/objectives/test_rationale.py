import math

import pytest
import torch

from rewarddance.objectives.rationale import answer_and_rationale_loss, token_cross_entropy

IS_LEARNED = torch.tensor([[False, True, True], [False, False, False], [True, True, True]])
TOKENS = torch.tensor([2.0, 4.0, 1.0, 2.0, 3.0])
ANSWER = torch.tensor([1.0, 5.0, 0.0])


def test_the_answer_weighs_its_share_and_the_tokens_their_mean() -> None:
    loss = answer_and_rationale_loss(ANSWER, TOKENS, IS_LEARNED, answer_weight=0.1)
    # Row 1: 0.1 x 1 + 0.9 x (2 + 4) / 2. Row 3: 0.1 x 0 + 0.9 x (1 + 2 + 3) / 3.
    assert loss.tolist() == pytest.approx([2.8, 5.0, 1.8])


def test_without_a_rationale_the_answer_keeps_its_whole_weight() -> None:
    assert answer_and_rationale_loss(ANSWER, TOKENS, IS_LEARNED, answer_weight=0.1)[1] == 5.0


def test_a_weight_of_one_learns_the_answer_alone() -> None:
    assert torch.equal(answer_and_rationale_loss(ANSWER, TOKENS, IS_LEARNED, answer_weight=1.0), ANSWER)


def test_a_batch_without_any_rationale_is_allowed() -> None:
    nothing = torch.zeros(3, 1, dtype=torch.bool)
    assert torch.equal(answer_and_rationale_loss(ANSWER, torch.zeros(0), nothing, answer_weight=0.1), ANSWER)


def test_gradients_reach_each_token_by_its_share() -> None:
    tokens = TOKENS.clone().requires_grad_()
    answer_and_rationale_loss(ANSWER, tokens, IS_LEARNED, answer_weight=0.1).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.tolist() == pytest.approx([0.45, 0.45, 0.3, 0.3, 0.3])


def test_a_token_of_an_uninformed_model_costs_the_logarithm_of_the_vocabulary() -> None:
    loss = token_cross_entropy(torch.zeros(2, 50), torch.tensor([3, 7]))
    assert loss.tolist() == pytest.approx([math.log(50)] * 2)


def test_half_precision_logits_are_read_in_full_precision() -> None:
    assert token_cross_entropy(torch.zeros(1, 8, dtype=torch.bfloat16), torch.tensor([0])).dtype is torch.float32
