"""`LRFinderResult`: the curve of a learning-rate range test, what it suggests, and its plot."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_transfer.figures import new_figure, save_figure


__all__ = ["LRFinderResult", "smoothed"]


def smoothed(losses: Any, width: float) -> np.ndarray:
    """
    The mean of each loss and its neighbours, weighted by a Gaussian that is centred on it.

    A running mean would lag behind, and show every feature of the curve at a rate that is too high.

    Args:
        losses (`Sequence[float]`): the losses.
        width (`float`): standard deviation of the Gaussian, in steps; 0 changes nothing.

    Example:
        >>> smoothed([0.0, 0.0, 1.0, 0.0, 0.0], 1.0).round(2).tolist()
        [0.08, 0.26, 0.4, 0.26, 0.08]
    """
    losses = np.asarray(losses, dtype=np.float64)
    if width <= 0 or losses.size == 0:
        return losses
    steps = np.arange(losses.size)
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / width) ** 2)
    return (weights @ losses) / weights.sum(1)


@dataclass(frozen=True)
class LRFinderResult:
    """
    The curve of a learning-rate range test.

    Args:
        rates (`tuple[float, ...]`):
            The rates swept, in place of `learning_rate`.
        losses (`tuple[float, ...]`):
            The training loss of each step, measured before the step at that rate was made.
        base (`float`):
            The `learning_rate` the trainer has.
        diverged (`bool`):
            Whether the sweep stopped early because the loss exploded or was not finite.
        width (`float`, *optional*, defaults to 0.0):
            Width of the smoothing in steps.
        ceiling (`float`, *optional*, defaults to 4.0):
            Losses above this multiple of the first one count as that in the smoothed curve: one explosion must not
            reach back.

    Example:
        >>> result = LRFinderResult((1e-4, 1e-3, 1e-2, 1e-1), (2.0, 1.9, 1.0, 5.0), base=1e-3, diverged=True)
        >>> result.suggestion, result.tenth_of_minimum, result.multiplier
        (0.001, 0.001, 1.0)
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    base: float
    diverged: bool
    width: float = field(default=0.0, repr=False)
    ceiling: float = field(default=4.0, repr=False)

    @property
    def smoothed(self) -> tuple[float, ...]:
        """The smoothed losses, from which both suggestions are read."""
        if not self.losses:
            return ()
        high = self.losses[0] + (self.ceiling - 1) * abs(self.losses[0])
        return tuple(smoothed(np.minimum(self.losses, high), self.width).tolist())

    @property
    def suggestion(self) -> float | None:
        """
        The rate at which the smoothed loss falls fastest over the logarithm of the rate, before its minimum: where a
        step gains most, at a safe distance from where training breaks. `None` where the loss never falls.
        """
        curve = np.asarray(self.smoothed)
        lowest = int(curve.argmin()) if curve.size else 0
        if curve.size < 3 or lowest == 0:
            return None
        slope = np.gradient(curve, np.log(self.rates))[:lowest]
        steepest = int(slope.argmin())
        return self.rates[steepest] if slope[steepest] < 0 else None

    @property
    def tenth_of_minimum(self) -> float | None:
        """
        A tenth of the rate with the lowest smoothed loss, the other rule in use: the minimum itself is already at the
        edge. Compare it where the curve is noisy and has no clear steepest point. `None` where the loss never falls.
        """
        return None if self.suggestion is None else self.rates[int(np.argmin(self.smoothed))] / 10

    @property
    def multiplier(self) -> float | None:
        """`suggestion` over `base`: the factor for every learning rate of the trainer."""
        return None if self.suggestion is None else self.suggestion / self.base

    def settings(self, args: Any) -> dict[str, Any]:
        """
        The learning rates of `args`, all scaled to the suggestion, by option; empty without a suggestion.

        Args:
            args (`TrainingArguments`): the arguments of the trainer that was tested.
        """
        factor = self.multiplier
        if factor is None:
            return {}
        names = ("learning_rate", "head_lr", "objective_lr")
        found = {name: rate * factor for name in names if (rate := getattr(args, name, None)) is not None}
        by_name = getattr(args, "learning_rates", None)
        return {**found, "learning_rates": {k: rate * factor for k, rate in by_name.items()}} if by_name else found

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """
        Draw the curve into a file, which appears whole or not at all.

        Args:
            path (`str` or `os.PathLike`): the file; its suffix is the format, PNG without one.

        Raises:
            ImportError: without matplotlib.
        """
        figure = new_figure(
            7, 4.5, doing="LRFinderResult.plot", instead="`rates` and `losses` hold the curve as numbers"
        )
        axes = figure.add_subplot()
        curve = self.smoothed
        axes.plot(self.rates, self.losses, color="0.75", linewidth=1, label="loss")
        axes.plot(self.rates, curve, color="C0", linewidth=2, label="smoothed")
        marks = (
            ("steepest", self.suggestion, "C3", "-"),
            ("a tenth of the minimum", self.tenth_of_minimum, "C2", "--"),
        )
        for label, rate, colour, line in marks:
            if rate is not None:
                axes.axvline(rate, color=colour, linestyle=line, label=f"{label}: {rate:.2g}")
        if curve:
            margin = 0.1 * (max(curve) - min(curve)) or 0.1
            axes.set_ylim(min(curve) - margin, max(curve) + margin)
        axes.set(xscale="log", xlabel="learning_rate", ylabel="training loss", title="Learning-rate range test")
        axes.legend()
        return save_figure(figure, path)
