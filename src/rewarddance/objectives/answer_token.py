"""Reading and training a yes/no answer from a language model's head.

Source:
    RewardDance, arXiv:2509.08826, Eq. 2: the reward is the probability of "yes".
    Differs: every single-token spelling of yes and of no counts; the probability is renormalised over {yes, no};
    rewards are log-odds. Training on `answer_cross_entropy` is therefore next-token cross-entropy renormalised over
    {yes, no}: it leaves the mass outside them free, which `leaked_mass` reports.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from rewarddance.objectives.preference import in_full_precision, smoothed_targets


def label_logits(
    hidden: Float[Tensor, "batch width"], rows: Float[Tensor, "labels width"]
) -> Float[Tensor, "batch labels"]:
    """Logits of a few tokens, without the rest of the vocabulary.

    Args:
        hidden: Hidden state at the answer position.
        rows: Rows of the language-model head.

    Returns:
        In float32 or better: autocast is switched off, because bf16 logits of about 20 are 0.125 apart.
    """
    with torch.autocast(device_type=hidden.device.type, enabled=False):
        return in_full_precision(hidden) @ in_full_precision(rows).to(hidden.device).T


def answer_log_odds(
    logits: Float[Tensor, "batch vocab"],
    yes_ids: Int[Tensor, " yes"],
    no_ids: Int[Tensor, " no"],
) -> Float[Tensor, " batch"]:
    r"""Log-odds that the model answers yes.

    $$z = \log\textstyle\sum_{k\in\text{yes}} e^{l_k} - \log\sum_{k\in\text{no}} e^{l_k}$$

    Args:
        logits: Next-token logits at the answer position, or only those of the labels.
        yes_ids: Where every single-token spelling of "yes" stands in them.
        no_ids: Where every single-token spelling of "no" stands in them.

    Returns:
        Unbounded; 0 when the model cannot tell. The score shown to people is its sigmoid.

    Source:
        RewardDance, arXiv:2509.08826, Eq. 2.
        Differs: renormalised over {yes, no}, and in log-odds, because the gradient of P(yes) vanishes near 1.
    """
    precise = in_full_precision(logits)
    return precise[:, yes_ids].logsumexp(-1) - precise[:, no_ids].logsumexp(-1)


def leaked_mass(
    logits: Float[Tensor, "batch vocab"],
    yes_ids: Int[Tensor, " yes"],
    no_ids: Int[Tensor, " no"],
) -> Float[Tensor, " batch"]:
    """Probability that the model's next word is neither yes nor no.

    Args:
        logits: Next-token logits over the whole vocabulary.
        yes_ids: Every single-token spelling of "yes".
        no_ids: Every single-token spelling of "no".

    Returns:
        In [0, 1]. Near 0 for a trained model; near 1, the score rests on a sliver of the distribution.
    """
    precise = in_full_precision(logits)
    labels = precise[:, torch.cat([yes_ids, no_ids])].logsumexp(-1)
    return -torch.expm1((labels - precise.logsumexp(-1)).clamp(max=0.0))


def answer_cross_entropy(
    log_odds: Float[Tensor, " batch"], targets: Float[Tensor, " batch"], label_smoothing: float = 0.0
) -> Float[Tensor, " batch"]:
    r"""Cross-entropy of the yes/no answer.

    $$L = -t\log\sigma(z) - (1-t)\log\sigma(-z)$$

    Args:
        log_odds: Log-odds of yes, from `answer_log_odds`.
        targets: How much the right answer is yes, in [0, 1]; 0.5 for a tie.
        label_smoothing: Share in [0, 1) by which targets are drawn towards one half.

    Returns:
        One loss an answer; ln 2 = 0.693 for an uninformed model.

    Source:
        RewardDance, arXiv:2509.08826, section 3.2 ("trained to predict the next token with yes or no").
        Differs: renormalised over {yes, no}; soft targets.
    """
    return functional.binary_cross_entropy_with_logits(
        in_full_precision(log_odds), smoothed_targets(targets, label_smoothing).to(log_odds.device), reduction="none"
    )
