"""What one run costs: memory while it trains, then size and speed of its model."""

from __future__ import annotations

import ctypes
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import nn
from transformers.utils import logging
from typing_extensions import Self

from hf_transfer.distillation.measuring import measure


if TYPE_CHECKING:
    from hf_transfer.compare.problem.setup import Setup

logger = logging.get_logger(__name__)

EVERY = 0.01
"""Seconds between two looks at the memory of the process."""

__all__ = ["PeakMemory", "latency_ms", "parameters_of"]


class PeakMemory:
    """
    The most memory that was taken within.

    On an accelerator, what its tensors took at most, `None` if it does not tell. On a CPU, by how much the process
    grew at most above its size at the start, looked at every hundredth of a second. What earlier work freed is given
    back to the system first; where the C library cannot do that, as outside of Linux, the figure is a lower bound.

    Args:
        device (`torch.device`): where the run trains.

    Example:
        >>> with PeakMemory(torch.device("cpu")) as memory:
        ...     held = torch.ones(30_000_000)
        >>> memory.bytes > 50_000_000
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = torch.device(device)
        self.bytes: int | None = None

    def __enter__(self) -> Self:
        if self.device.type == "cpu":
            _give_back()
            self._process = psutil.Process()
            self._start = self._most = self._process.memory_info().rss
            self._ended = threading.Event()
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        else:
            self._ask(torch.accelerator.reset_peak_memory_stats)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.device.type == "cpu":
            self._ended.set()
            self._watcher.join()
            self._look()
            self.bytes = self._most - self._start
        else:
            self.bytes = self._ask(torch.accelerator.max_memory_allocated)

    def _watch(self) -> None:
        while not self._ended.wait(EVERY):
            self._look()

    def _look(self) -> None:
        self._most = max(self._most, self._process.memory_info().rss)

    def _ask(self, question: Any) -> int | None:
        try:
            return question(self.device)
        except (RuntimeError, NotImplementedError, AttributeError):  # not every accelerator counts
            return None


def _give_back() -> None:
    """Let the process shrink to what it holds: it would grow by nothing where a run before took as much."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # of glibc
    except (AttributeError, OSError, TypeError):
        pass


def parameters_of(model: nn.Module | None) -> int | None:
    """Weights of a model, each counted once; those of an attached objective are none of its."""
    if model is None:
        return None
    return sum(weight.numel() for name, weight in model.named_parameters() if "transfer_objectives." not in name)


def latency_ms(model: nn.Module, setup: Setup) -> float | None:
    """
    The median time of a forward of one row of the test or validation split, in milliseconds, on the device of the run.

    The model runs as it is saved: an adapter is not merged into it. `None` if there is no row, or it cannot be timed.
    """
    rows: Any = setup.test if setup.test is not None else setup.validation
    if rows is None or not len(rows):
        return None
    try:
        one = setup.collate([rows[0]])
        # throughput is not asked for: many rows would cost more than a short training
        return measure(model.to(setup.device), one, one, repeats=20).latency_ms
    except Exception as error:  # a model of an own strategy may take its inputs in another way
        logger.debug(f"The latency was not measured: {type(error).__name__}: {error}")
        return None
