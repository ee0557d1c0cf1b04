"""The width of what a module returns, read off its parameters."""

from __future__ import annotations

import re

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from hf_transfer._blocks import Named, bare_children


# Children registered after the layer whose output a block returns, as `class.child`: running the architectures of
# transformers 5.23 did tell. Everything else returns what its last registered layer does.
_RUNS_BEFORE = re.compile(r"MobileBertLayer\.(?:bottleneck|ffn)|LiltLayer\.layout_")

__all__ = ["output_width"]


def output_width(module: nn.Module) -> int:
    """
    How many channels a block returns: those of the last linear layer, convolution or norm that is registered in it.

    Read off the module tree, with no forward pass and no parameter values; adapters of PEFT are left out. It is right
    for every block of the classifiers of transformers 5.23 that run; a module that registers its layers in another
    order than it runs them may return another width, so whoever builds on it checks the first batch.

    Args:
        module (`nn.Module`):
            A block, or any other module that returns hidden states.

    Raises:
        ValueError: if there is no such layer in it.

    Example:
        >>> output_width(nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 6)))
        6
    """
    width = _last_width(("", module))
    if width is None:
        raise ValueError(
            f"{type(module).__name__} holds no linear layer, convolution or norm: how wide its hidden states are "
            "cannot be read off it. Name a block that has weights, such as one of `anatomy(model).blocks`."
        )
    return width


def _last_width(named: Named) -> int | None:
    name, module = named
    while isinstance(wrapped := getattr(module, "base_layer", None), nn.Module):
        module = wrapped  # a layer under PEFT
    for key, child in reversed(list(bare_children(name, module))):
        ignored = _RUNS_BEFORE.match(f"{type(module).__name__}.{key.rpartition('.')[2]}")
        width = None if ignored else _last_width((key, child))
        if width is not None:
            return width
    return _width(module)


def _width(module: nn.Module) -> int | None:
    """Output channels of a single layer; None for anything else."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, _ConvNd):
        return module.out_channels
    kind = type(module).__name__
    if kind == "Conv1D":  # GPT-2's linear layer, of transformers.pytorch_utils: importing it takes seconds
        return module.nf  # pyright: ignore
    weight = getattr(module, "weight", None)
    # each architecture has norms of its own (RMSNorm), which are told by their name
    return len(weight) if "norm" in kind.lower() and isinstance(weight, Tensor) and weight.dim() == 1 else None
