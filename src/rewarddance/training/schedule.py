"""How the learning rate changes over a run. A function of the step alone, so a resumed run has nothing to restore."""

import math


def cosine_with_warmup(optimizer_step: int, total_steps: int, warmup_share: float) -> float:
    r"""Factor on the learning rate: a straight rise, then half a cosine down to zero.

    $$f(k) = \min\left(\frac{k+1}{w},\ \tfrac12\left(1+\cos\pi\frac{k-w}{n-w}\right)\right)$$

    Args:
        optimizer_step: Updates made so far, k; the first update is asked for with 0.
        total_steps: Updates of the whole run, n.
        warmup_share: Share of the run in [0, 1) during which the rate rises; w is that share of n, rounded up.

    Returns:
        A factor in [0, 1]; 1 at the end of the rise, and 0 only after the last update.

    Source:
        Loshchilov and Hutter, arXiv:1608.03983, Eq. 5 with one cycle.
        Differs: with a linear rise before it, which starts at 1/w so that the first update already does something.
    """
    warmup_steps = math.ceil(warmup_share * total_steps)
    if optimizer_step < warmup_steps:
        return (optimizer_step + 1) / warmup_steps
    if optimizer_step >= total_steps:
        return 0.0
    progress = (optimizer_step - warmup_steps) / (total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def constant_with_warmup(optimizer_step: int, total_steps: int, warmup_share: float) -> float:
    """Factor on the learning rate: the same straight rise, then 1 to the end; arguments as above."""
    warmup_steps = math.ceil(warmup_share * total_steps)
    return min(1.0, (optimizer_step + 1) / warmup_steps) if warmup_steps else 1.0
