"""Layers of a judge that keep only their input for the backward pass, and compute the rest again there.

transformers' own switch acts in training mode alone, and a judge is never in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rewarddance.rewards.module_modes import evaluating, frozen


def checkpoint_layers(model: nn.Module) -> None:
    """Do so from now on wherever a gradient is asked for, in language model and vision tower; values stay the same.

    Args:
        model: A frozen model of transformers, in place; one that learns would get no gradient of its layers.
    """
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer) and "forward" not in vars(layer):
            vars(layer)["forward"] = partial(_forward, layer, layer.forward)


def _forward(layer: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    # Nothing is random in a judge, so no state of random numbers has to be kept.
    return checkpoint(
        partial(forward, **options),
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _judging(layer)),
    )


@contextmanager
def _judging(layer: nn.Module) -> Iterator[None]:
    """The backward pass comes when the caller's modes may be over."""
    with evaluating(layer), frozen(layer):
        yield
