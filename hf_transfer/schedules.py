"""Schedules: pure functions of training progress in [0, 1], so that a resumed run continues exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor


Progress: TypeAlias = float | Tensor
Schedule: TypeAlias = Callable[[Tensor], Tensor]

__all__ = ["NamedSchedule", "Progress", "Schedule", "constant", "cosine", "evaluate", "linear", "warmup"]


class NamedSchedule:
    """A schedule that prints as the call that made it: `warmup(gamma=10.0)`."""

    def __init__(self, function: Callable[..., Tensor], **options: float):
        self.function = partial(function, **options)

    def __call__(self, progress: Progress) -> Tensor:
        """The value at `progress` in [0, 1]."""
        return self.function(torch.as_tensor(progress))

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.function.keywords.items())
        return f"{self.function.func.__name__.removeprefix('_')}({options})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedSchedule) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


def evaluate(schedule: float | Schedule, progress: Progress) -> float | Tensor:
    """Value of a number or a schedule at `progress`. A tensor of progress stays a tensor: nothing is read back."""
    return schedule(torch.as_tensor(progress)) if callable(schedule) else schedule


def constant(value: float) -> NamedSchedule:
    """The same `value` throughout."""
    return NamedSchedule(_constant, value=value)


def linear(start: float = 0.0, end: float = 1.0) -> NamedSchedule:
    """From `start` to `end` in a straight line."""
    return NamedSchedule(_linear, start=start, end=end)


def cosine(start: float = 0.0, end: float = 1.0) -> NamedSchedule:
    """From `start` to `end` along half a cosine: level at both ends."""
    return NamedSchedule(_cosine, start=start, end=end)


def warmup(gamma: float = 10.0, peak: float = 1.0) -> NamedSchedule:
    r"""
    Ganin's schedule $\text{peak} \cdot (2 / (1 + e^{-\gamma p}) - 1)$: 0 at the start, level near `peak` from half
    way on.

    Args:
        gamma (`float`, *optional*, defaults to 10.0):
            Steepness (dimensionless); the paper's value. Progress runs over the whole training, so a smaller gamma
            ends below the peak: 0.46 of it at gamma 1.
        peak (`float`, *optional*, defaults to 1.0):
            Value approached at the end (dimensionless).

    Example:
        >>> round(float(warmup(gamma=10.0)(0.1)), 3)
        0.462

    Paper: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, https://huggingface.co/papers/1505.07818
    """
    return NamedSchedule(_warmup, gamma=gamma, peak=peak)


def _constant(progress: Tensor, value: float) -> Tensor:
    return torch.full_like(progress, value, dtype=torch.get_default_dtype())


def _linear(progress: Tensor, start: float, end: float) -> Tensor:
    return start + (end - start) * progress


def _cosine(progress: Tensor, start: float, end: float) -> Tensor:
    return start + (end - start) * (1 - torch.cos(math.pi * progress)) / 2


def _warmup(progress: Tensor, gamma: float, peak: float) -> Tensor:
    # tanh(x / 2) = 2 / (1 + exp(-x)) - 1, without the cancellation near 0.
    return peak * torch.tanh(gamma * progress / 2)
