"""Sums and means over the processes of a run, outside the graph."""

from __future__ import annotations

from torch import Tensor, distributed


__all__ = ["mean_over_ranks", "sum_over_ranks"]


def sum_over_ranks(values: Tensor) -> Tensor:
    """
    Add up a tensor over all ranks, in place; every rank must call it. Without other ranks, nothing is changed.

    Example:
        >>> import torch
        >>> sum_over_ranks(torch.ones(2))
        tensor([1., 1.])
    """
    if _ranks() > 1:
        distributed.all_reduce(values)
    return values


def mean_over_ranks(values: Tensor) -> Tensor:
    """
    The mean of a tensor over all ranks, in place; every rank must call it.

    Example:
        >>> import torch
        >>> mean_over_ranks(torch.ones(2))
        tensor([1., 1.])
    """
    return sum_over_ranks(values).div_(_ranks())


def _ranks() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
