"""Held-out accuracy of the model that is being trained, from its own loss function's log-odds."""

import numpy as np
import torch

from rewarddance.metrics.agreement import correctness
from rewarddance.rewards.protocol import LossSettings, RewardModel
from rewarddance.training.learning_data import ChosenComparisons
from rewarddance.training.prepared_batches import Share, on_device


def held_out_right(
    model: RewardModel,
    comparisons: ChosenComparisons,
    batch_size: int,
    device: torch.device,
    share: Share,
) -> float:
    """How many of this process's comparisons the model gets right when both orders are asked.

    Args:
        model: Left in evaluation mode.
        comparisons: With a preference, no ties. Of several processes each takes every `processes`-th.
        batch_size: Comparisons in one forward pass, each in both orders.
        device: Where the model is.
        share: Which process this is.

    Returns:
        A count; log-odds of exactly 0 count one half.
    """
    mine = range(share.rank, len(comparisons), share.processes)
    model.module.eval()
    right = 0.0
    with torch.no_grad():
        for start in range(0, len(mine), batch_size):
            batch = [comparisons[place] for place in mine[start : start + batch_size]]
            shown = [order for comparison in batch for order in (comparison, comparison.swapped())]
            prepared = on_device(model.prepare_comparisons(shown), device)
            log_odds = model.comparison_loss(prepared, LossSettings()).log_odds.double().cpu().numpy()
            two_order = 0.5 * (log_odds[0::2] - log_odds[1::2])
            targets = np.array([comparison.target for comparison in batch], dtype=np.float64)
            right += float(correctness(two_order, targets).sum())
    return right
