"""The parameters of a model that a card counts."""

from __future__ import annotations

from torch import nn

from hf_transfer.attach import CHILD


__all__ = ["count", "own_parameters"]

_LEFT_OUT = (f"{CHILD}.", ".original_module.")  # PEFT keeps the original of what trains in full beside the copy


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """By name, without those of objectives, and once where PEFT has copied them."""
    return {name: own for name, own in model.named_parameters() if not any(part in name for part in _LEFT_OUT)}


def count(model: nn.Module, *, trained: bool = False) -> int:
    """
    How many there are, or how many of them train.

    Example:
        >>> count(nn.Linear(2, 3)), count(nn.Linear(2, 3).requires_grad_(False), trained=True)
        (9, 0)
    """
    return sum(own.numel() for own in own_parameters(model).values() if own.requires_grad or not trained)
