"""Pilot runs: a few steps of training on a part of the training rows, judged on the others and timed."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hf_transfer.compare.cells import CellKey
from hf_transfer.compare.execution.deadline import stopped_at
from hf_transfer.compare.execution.quiet import quietly
from hf_transfer.compare.planning.estimates import rest_speed, row_speed, step_speed
from hf_transfer.compare.strategies.strategy import Strategy
from hf_transfer.random_state import random_numbers_put_back
from hf_transfer.recipe_arguments import LoopArguments


if TYPE_CHECKING:
    from hf_transfer.compare.problem.problem import Problem
    from hf_transfer.compare.problem.setup import Setup


SHARE, LEAST = 0.25, 20
"""Share of the steps of a run that a pilot run takes, and how many at least."""
HELD_OUT = 5
"""One row of so many is held out."""
_TEMPERATURES = [*(2 ** (power / 2) for power in range(21)), 1e6]
_PLAINEST = {
    **{"whole": "full", "fixed_statistics": "frozen_bn", "probed": "lp_ft"},
    **{"adapter": "lora", "scratch": "scratch"},
}

__all__ = ["Pilot", "held_out", "plainest", "softened_loss", "with_rate"]


@dataclass
class Pilot:
    """
    Short runs of the plainest strategy of a kind.

    Args:
        problem (`Problem`): models and rows.
        model (`str`): label of the base model.
        strategy (`Strategy`): that is trained.
        args (`LoopArguments`): of a run.
    """

    problem: Problem
    model: str
    strategy: Strategy
    args: LoopArguments
    steps: int = 0
    """Of the last run."""

    def __post_init__(self) -> None:
        self._setup: Setup | None = None
        self.speeds: dict[str, float] = {}
        """Seconds of a step and of a row, by the names of [`Estimates`], as measured by the last run."""

    @property
    def group(self) -> str:
        """What is trained, one of the groups of rates."""
        return str(self.strategy.rate)

    @property
    def setup(self) -> Setup:
        """Of the whole run with the first seed; made when first asked for."""
        if self._setup is None:
            key = CellKey(self.model, self.strategy.name, self.args.seed)
            self._setup = self.problem.setup(key, self.args)
        return self._setup

    def loss(self, rate: float, *, deadline: float | None = None, steps: int | None = None) -> float:
        """
        The loss on the held-out rows after some steps at a learning rate.

        Args:
            rate (`float`): of the strategy.
            deadline (`float`, *optional*): moment of `time.monotonic()` at which it is stopped by an error.
            steps (`int`, *optional*): by default a quarter of those of a run, and 20 at least.

        Raises:
            Exception: what the strategy raises.
        """
        whole = self.setup
        trained, judged = held_out(whole.train_labels, self.args.seed)
        own = whole.part(trained)
        own.args = with_rate(own.args, rate)
        full = whole.args.max_steps
        self.steps = min(full, max(LEAST, round(SHARE * full))) if steps is None else steps
        own.args.max_steps = self.steps
        # BatchNorm can tell no variance of one row
        own.args.dataloader_drop_last |= len(trained) % own.args.per_device_train_batch_size == 1 < len(trained)
        with (
            TemporaryDirectory() as folder,  # what a run leaves is not to be found among those that count
            quietly(),
            random_numbers_put_back(self.args.seed),
            stopped_at(deadline),
            _step_times() as times,
        ):
            own.args.output_dir = folder
            start = time.perf_counter()
            model = cast(nn.Module, self.strategy.fit(own).model)
            end = time.perf_counter()
        step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else (end - start) / max(self.steps, 1)
        rows = whole.part(judged)
        found = softened_loss(rows.predict(model, "train"), rows.labels("train"))
        self.speeds = {
            step_speed(self.model, self.group): step,
            rest_speed(self.model, self.group): max(0.0, end - start - step * self.steps),
            row_speed(self.model): (time.perf_counter() - end) / len(judged),
        }
        return found


def plainest(group: str, strategies: Sequence[Strategy]) -> Strategy:
    """The strategy that finds the learning rate for all of its kind, such as full, lora or scratch."""
    name = _PLAINEST[group]
    for strategy in strategies:
        if strategy.name == name and strategy.rate == group:
            return strategy
    from hf_transfer.compare.strategies.standard import STANDARD

    return STANDARD[name]


def with_rate(args: LoopArguments, rate: float | None) -> LoopArguments:
    """A copy of the arguments with another learning rate; `None` leaves it."""
    own = copy.copy(args)
    own.learning_rate = args.learning_rate if rate is None else rate
    return own


def held_out(labels: np.ndarray, seed: int) -> tuple[list[int], list[int]]:
    """
    Rows to train on, and a fifth of every class to judge by; small classes may stay whole.

    Args:
        labels (`np.ndarray`): of the rows, `(N,)`; real values and those of tokens are cut without looking at them.
        seed (`int`): draws the rows.

    Raises:
        ValueError: if there are fewer than two rows.

    Example:
        >>> trained, judged = held_out(np.array([0] * 10 + [1] * 5), seed=0)
        >>> len(trained), len(judged), sum(row >= 10 for row in judged)
        (12, 3, 1)
    """
    if len(labels) < 2:
        raise ValueError(
            f"There are {len(labels)} training rows: none can be held out to find a learning rate. Pass "
            "`--learning_rate`."
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    classes = labels if labels.ndim == 1 and labels.dtype.kind in "iub" else np.zeros(len(labels), dtype=np.int64)
    judged = [row for number in np.unique(classes) for row in _fifth(order[classes[order] == number])]
    judged = judged or [int(order[0])]
    return sorted({*range(len(labels))} - {*judged}), sorted(judged)


def softened_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    r"""
    The mean cross-entropy of what has a label, at the temperature that suits it best, or the mean squared error.

    $$ \min_{\tau \ge 1} \frac{1}{N} \sum_i -\log \operatorname{softmax}(z_i / \tau)_{y_i} $$

    On a few rows a model that has learned well is mostly too sure, which the plain loss holds against it, so much that
    it prefers rates at which next to nothing is learned.

    Args:
        logits (`np.ndarray`): `(N, C)`, `(N, T, C)` for tokens, `(N, 1)` for a regression.
        labels (`np.ndarray`): `(N,)`, or `(N, T)` with -100 where there is none.

    Degenerate:
        Without a label, or with logits that are not finite, it is not finite.

    Example:
        >>> round(softened_loss(np.zeros((3, 4)), np.array([0, 1, 3])), 4)  # log 4
        1.3863
        >>> round(softened_loss(np.array([[90.0, 0.0], [90.0, 0.0]]), np.array([0, 1])), 4)  # log 2, and not 45
        0.6931
        >>> softened_loss(np.array([[1.0], [3.0]]), np.array([2.0, 3.0]))
        0.5
    """
    said, truth = torch.as_tensor(logits).double(), torch.as_tensor(labels)
    if truth.is_floating_point():
        return float((said.reshape(truth.shape) - truth).square().mean())
    if truth.ndim == 2:  # both are padded, which counts for nothing
        width = min(said.shape[1], truth.shape[1])
        said, truth = said[:, :width], truth[:, :width]
    said, truth = said.flatten(0, -2), truth.flatten()
    losses = [float(F.cross_entropy(said / temperature, truth)) for temperature in _TEMPERATURES]
    return min(losses) if all(map(math.isfinite, losses)) else math.nan


def _fifth(rows: np.ndarray) -> list[int]:
    return [int(row) for row in rows[: round(len(rows) / HELD_OUT)]]


@contextmanager
def _step_times() -> Iterator[list[float]]:
    """When optimizer steps were taken."""
    times: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda *_: times.append(time.perf_counter()))
    try:
        yield times
    finally:
        handle.remove()
