"""Layers that keep running statistics of what passes through them."""

from __future__ import annotations

from torch import nn


__all__ = ["has_statistics"]


def has_statistics(module: nn.Module) -> bool:
    """
    Whether a layer keeps running statistics, as batch normalisation does unless `track_running_stats` is off.

    Example:
        >>> has_statistics(nn.BatchNorm2d(3)), has_statistics(nn.LayerNorm(3))
        (True, False)
    """
    return getattr(module, "running_mean", None) is not None
