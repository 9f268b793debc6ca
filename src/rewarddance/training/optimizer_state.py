"""What training changes, as flat tensors by name and back: the form in which it is stored without pickle."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rewarddance.core.errors import CheckpointError

_SEPARATOR = "/"


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """Every trained parameter and every stored buffer, by name, on the CPU.

    Frozen parameters come from the base model again. Parameters that are tied stand under their first name only.
    """
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    every_parameter = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    buffers = {name: value for name, value in module.state_dict().items() if name not in every_parameter}
    return {name: value.detach().cpu().contiguous() for name, value in {**parameters, **buffers}.items()}


def restore_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put stored weights back in place.

    Raises:
        CheckpointError: The model is not the one that the checkpoint was made from.
    """
    here = trained_weights(module)
    if here.keys() != weights.keys() or any(here[name].shape != weights[name].shape for name in here):
        raise CheckpointError(
            "the checkpoint belongs to another model or another choice of trained parameters; "
            "resume with the base model and the config that the run began with"
        )
    places = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, value in weights.items():
            places[name].copy_(value)


def optimizer_tensors(module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `parameter/entry`, on the CPU. The learning rate is not state: the schedule sets it."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        for entry, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}{_SEPARATOR}{entry}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def restore_optimizer(module: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the optimizer's stored state back, each tensor on the device on which this optimizer keeps it."""
    parameters = dict(module.named_parameters())
    for key, value in tensors.items():
        name, entry = key.rsplit(_SEPARATOR, 1)
        parameter = parameters[name]
        # A fused optimizer keeps its counter beside the parameter, a plain one on the CPU.
        is_fused = any(group.get("fused") for group in optimizer.param_groups)
        is_counter = entry == "step"
        optimizer.state[parameter][entry] = value.clone() if is_counter and not is_fused else value.to(parameter.device)
