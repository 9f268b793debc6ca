"""Learning from comparisons: Bradley-Terry, soft and smoothed targets, and what two orders of showing give.

A *difference* is how much better the second medium is, in log-odds; a *target* is the share of judges who prefer
the second medium: 0, 1, 0.5 for a tie, or anything between.

Source:
    Bradley-Terry as in RewardDance, arXiv:2509.08826, Eq. 1.
    Differs: targets may be soft, so that ties and vote shares are used instead of dropped.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def in_full_precision(values: Tensor) -> Tensor:
    """At least float32: half-precision log-odds near 0 lose the digits that decide a comparison."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def smoothed_targets(targets: Float[Tensor, " batch"], label_smoothing: float) -> Float[Tensor, " batch"]:
    """Targets drawn towards one half, so that no finite difference is asked to be infinite.

    Args:
        targets: Preference for the second medium, in [0, 1].
        label_smoothing: Share in [0, 1); 0 leaves the targets as they are.

    Returns:
        With smoothing s, hard targets become s/2 and 1 - s/2; ties stay 0.5.
    """
    return in_full_precision(targets) * (1.0 - label_smoothing) + 0.5 * label_smoothing


def bradley_terry_loss(
    differences: Float[Tensor, " batch"], targets: Float[Tensor, " batch"], label_smoothing: float = 0.0
) -> Float[Tensor, " batch"]:
    r"""Cross-entropy between the share of judges and the model's chance that the second medium wins.

    $$L = -t\log\sigma(d) - (1-t)\log\sigma(-d)$$

    Args:
        differences: Reward of the second medium minus reward of the first.
        targets: Preference for the second medium, in [0, 1].
        label_smoothing: Share in [0, 1) by which targets are drawn towards one half.

    Returns:
        One loss a comparison; ln 2 = 0.693 for an uninformed model. Its least value is the targets' entropy.

    Source:
        RewardDance, arXiv:2509.08826, Eq. 1, which has t = 1.
    """
    return functional.binary_cross_entropy_with_logits(
        in_full_precision(differences),
        smoothed_targets(targets, label_smoothing).to(differences.device),
        reduction="none",
    )


def two_order_log_odds(forward: Float[Tensor, " batch"], backward: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Log-odds that the candidate is better, with the preference for a position taken out.

    Args:
        forward: Log-odds of yes to "is image 2 better?" with the candidate as image 2.
        backward: The same with the candidate as image 1.

    Returns:
        Half their difference: changes sign when candidate and reference image change places, and is 0 for a
        model that always says yes.
    """
    return 0.5 * (in_full_precision(forward) - in_full_precision(backward))


def order_gap(forward: Float[Tensor, " batch"], backward: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """How far the two orders disagree, as a difference of probabilities.

    Args:
        forward: Log-odds of yes with the candidate as image 2.
        backward: Log-odds of yes with the candidate as image 1.

    Returns:
        In [0, 1]: 0 when both orders tell the same, 1 for a model that is certain of a position.
    """
    return (torch.sigmoid(in_full_precision(forward)) - torch.sigmoid(-in_full_precision(backward))).abs()
