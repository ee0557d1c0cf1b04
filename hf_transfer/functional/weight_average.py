"""Exponential moving averages of weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


__all__ = ["decay_at", "update_average"]


def decay_at(step: int, *, decay: float, warmup: bool = True) -> float:
    r"""
    The decay of an average at an optimizer step: with warm-up $\min(d, (1 + t) / (10 + t))$, else $d$.

    Args:
        step (`int`): $t$, optimizer steps done, this one included.
        decay (`float`): $d$ in [0, 1).
        warmup (`bool`, *optional*, defaults to `True`): let the average forget its start early in the run.

    Example:
        >>> [round(decay_at(step, decay=0.999), 3) for step in (1, 10, 100, 10000)]
        [0.182, 0.55, 0.918, 0.999]
    """
    return min(decay, (1 + step) / (10 + step)) if warmup else decay


def update_average(averages: Sequence[Tensor], values: Sequence[Tensor], *, decay: float) -> None:
    r"""
    $\bar w \leftarrow d\,\bar w + (1 - d)\,w$ for each pair of tensors, in place and in the type of the average.

    Args:
        averages (`Sequence[Tensor]`): $\bar w$, floating point; changed.
        values (`Sequence[Tensor]`): $w$, of the same shapes and on the same devices.
        decay (`float`): $d$ in [0, 1].

    Example:
        >>> import torch
        >>> average = torch.tensor([1.0])
        >>> update_average([average], [torch.tensor([3.0])], decay=0.75)
        >>> average
        tensor([1.5000])
    """
    if averages:
        current = tuple(value.detach().to(average.dtype) for average, value in zip(averages, values, strict=True))
        get_ema_multi_avg_fn(decay)(tuple(averages), current, 0)
