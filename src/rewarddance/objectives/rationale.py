"""Learning an answer together with the reasons for it.

Source:
    PaCo-Reward, arXiv:2512.04784: the first token's cross-entropy is weighted against the mean over the rest,
    L = a CE(answer) + (1 - a) mean CE(rationale), best at a = 0.1.
    Differs: the answer stays in log-odds over every spelling of yes and no; the rationale may also stand before the
    answer; a comparison without a rationale keeps the whole weight for its answer.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from rewarddance.objectives.preference import in_full_precision


def token_cross_entropy(
    logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Cross-entropy of each token of a rationale.

    Args:
        logits: Next-token logits over the whole vocabulary.
        targets: The token that comes next.

    Returns:
        In nats; the logarithm of the vocabulary's size for an uninformed model.
    """
    return functional.cross_entropy(in_full_precision(logits), targets, reduction="none")


def answer_and_rationale_loss(
    answer: Float[Tensor, " batch"],
    tokens: Float[Tensor, " learned"],
    is_learned: Bool[Tensor, "batch positions"],
    answer_weight: float,
) -> Float[Tensor, " batch"]:
    r"""Weighted loss of an answer and its rationale.

    $$L = a\,L_\text{answer} + (1-a)\,\tfrac1n\textstyle\sum_{i=1}^n L_i$$

    Args:
        answer: Loss of each answer.
        tokens: Loss of each token of the rationales, row by row.
        is_learned: Where a row has such tokens; as many are true as `tokens` has values.
        answer_weight: a, in (0, 1]; 0.1 in the source, 1 learns the answer alone.

    Returns:
        One loss a row, whatever the length of its rationale; the answer's own where there is no rationale.
    """
    placed = answer.new_zeros(is_learned.shape).masked_scatter(is_learned, tokens.to(answer.dtype))
    count = is_learned.sum(1)
    mean = placed.sum(1) / count.clamp(min=1)
    return torch.where(count > 0, answer_weight * answer + (1.0 - answer_weight) * mean, answer)
