"""Weights as a whole: gathered from their shards, and told from one another by two numbers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


__all__ = ["fingerprint", "whole"]


def whole(parameter: Tensor) -> Tensor:
    """The tensor, gathered from all ranks where it is sharded; the gradient goes back to the shards."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def fingerprint(tensors: Iterable[Tensor]) -> Tensor:
    r"""
    $(\sum_i \lVert w_i \rVert^2, \sum_i i \lVert w_i \rVert)$: two numbers that tell one set of weights from another.

    Args:
        tensors (`Iterable[Tensor]`): at least one, of any shapes; their order counts.

    Shape:
        - returns `(2,)` float32 on the CPU, worked out in float64.

    Example:
        >>> fingerprint([torch.tensor([3.0, 4.0]), torch.tensor([1.0])])
        tensor([26.,  7.])
    """
    norms = torch.stack([tensor.detach().double().norm().cpu() for tensor in tensors])
    order = torch.arange(1, len(norms) + 1, dtype=torch.float64)
    return torch.stack([norms.square().sum(), (norms * order).sum()]).float()
