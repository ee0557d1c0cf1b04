"""`snapshot`: the weights of a model at one moment, kept beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_transfer.attach import CHILD
from hf_transfer.functional.starting_point import compact
from hf_transfer.weights.slots import refuse_wrapped


__all__ = ["WeightSnapshot", "movable", "restore", "snapshot"]


@dataclass(frozen=True)
class WeightSnapshot:
    """
    The weights of a model at one moment, on the CPU; made by [`snapshot`].

    Holds what can move in training: trainable parameters and persistent buffers. Weights that bfloat16 holds without
    loss, as those of many published checkpoints, are kept in it.

    Args:
        tensors (`dict[str, Tensor]`): parameters and buffers by name.
        parameters (`frozenset[str]`): which of them are parameters.
    """

    tensors: dict[str, Tensor]
    parameters: frozenset[str]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the snapshot into a safetensors file, for a later process."""
        state = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        save_file(state, path, metadata={name: "parameter" for name in sorted(self.parameters)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WeightSnapshot:
        """Read what `save` wrote."""
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return cls(tensors, frozenset(file.metadata() or ()))


def snapshot(model: nn.Module) -> WeightSnapshot:
    """
    Keep the weights a model has now: its trainable parameters and persistent buffers, on the CPU.

    Take it before training, and before anything is frozen by hand that trains later. Objectives attached by `attach`
    are left out; tied parameters are kept once.

    Raises:
        TypeError: if the model is wrapped by DDP or compiled.
        ValueError: if its parameters are sharded or on the meta device.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> snapshot(layer).tensors.keys()
        dict_keys(['weight'])
    """
    refuse_wrapped(model, doing="a snapshot")
    tensors = movable(model)
    parameters = frozenset(name for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter))
    return WeightSnapshot({name: _keep(tensor) for name, tensor in tensors.items()}, parameters)


def restore(model: nn.Module, state: WeightSnapshot) -> None:
    """Put a model back to a state it had, bit for bit."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, value in state.tensors.items():
            tensors[name].copy_(value)


def movable(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters and persistent buffers, each once, without attached objectives."""
    persistent = model.state_dict(keep_vars=True).keys()
    named = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    named |= {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return {name: tensor for name, tensor in named.items() if CHILD not in name.split(".")}


def _keep(tensor: Tensor) -> Tensor:
    copy = tensor.detach().cpu().clone()
    return compact(copy) if copy.is_floating_point() else copy
