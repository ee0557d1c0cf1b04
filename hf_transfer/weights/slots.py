"""The tensors of a model under the names it has without wrappers: what weights are copied to and from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from hf_transfer._blocks import bare_name
from hf_transfer.attach import CHILD


__all__ = ["Slot", "base_of", "has_adapters", "refuse_wrapped", "slots"]


@dataclass
class Slot:
    """
    One tensor of the state of a model, and every place where it is kept.

    Args:
        name (`str`): its name without the wrappers of PEFT; the first one of a tied tensor.
        tensors (`list[Tensor]`): the tensor itself; behind it the copies that `modules_to_save` keeps of it.
        aliases (`list[str]`): all its names, more than one where it is tied.
    """

    name: str
    tensors: list[Tensor]
    aliases: list[str] = field(default_factory=list)

    @property
    def tensor(self) -> Tensor:
        """The tensor of the base model."""
        return self.tensors[0]

    @property
    def is_parameter(self) -> bool:
        """Whether it is a parameter, not a buffer."""
        return isinstance(self.tensor, nn.Parameter)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as plain integers."""
        return tuple(self.tensor.shape)

    def write(self, value: Tensor) -> None:
        """Set the tensor and its copies to a value of the same shape, in place."""
        with torch.no_grad():
            for tensor in self.tensors:
                tensor.copy_(value)


def base_of(model: nn.Module) -> nn.Module:
    """The model of `transformers` that a PEFT model wraps; any other model itself."""
    find: Any = getattr(model, "get_base_model", None)
    return model if find is None else find()


def has_adapters(model: nn.Module) -> bool:
    """Whether PEFT has put adapters into the model, or wraps it."""
    # told by attributes: `peft` is no dependency; prompt learning wraps without touching a layer
    return base_of(model) is not model or any("base_layer" in dict(m.named_children()) for m in model.modules())


def refuse_wrapped(model: nn.Module, *, doing: str) -> None:
    """
    Refuse a model whose tensors cannot be set one by one.

    Raises:
        TypeError: if the model is wrapped for devices or compiled.
        ValueError: if its parameters are sharded or on the meta device.
    """
    if hasattr(model, "_orig_mod") or isinstance(getattr(model, "module", None), nn.Module):
        raise TypeError(
            f"The model is wrapped in {type(model).__name__}: {doing} reads its parts by the names of the bare model, "
            "and the ranks would not follow. Do it before the model is wrapped, or pass the bare model."
        )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor) or parameter.is_meta:
            where = "on the meta device" if parameter.is_meta else "sharded over the ranks"
            raise ValueError(
                f"`{name}` is {where}: {doing} would set no or only a part of its values. Do it on a model with real "
                "weights in the memory of this process, before it is sharded."
            )


def slots(model: nn.Module) -> dict[str, Slot]:
    """
    All parameters and persistent buffers of the base model, without adapters and attached objectives.

    A tied tensor is listed once, under its first name.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> {name: slot.shape for name, slot in slots(layer).items()}
        {'weight': (3, 2), 'bias': (3,)}
    """
    base = base_of(model)
    adapted = {f"{name}." for name, module in base.named_modules() if "base_layer" in dict(module.named_children())}
    found: dict[str, Slot] = {}
    owners: dict[int, Slot] = {}
    for full, tensor in base.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or CHILD in full.split("."):
            continue
        holders = (full[: place + 1] for place, character in enumerate(full) if character == ".")
        if any(holder in adapted and not full.startswith(f"{holder}base_layer.") for holder in holders):
            continue
        name = bare_name(full)
        if id(tensor) in owners:
            slot = owners[id(tensor)]
            slot.aliases += [name] if name not in slot.aliases else []
        elif name in found:  # the copy that `modules_to_save` trains
            slot = found[name]
            slot.tensors.append(tensor)
        else:
            slot = found[name] = Slot(name, [tensor], [name])
        owners[id(tensor)] = slot
    return found
