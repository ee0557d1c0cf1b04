"""A moment at which a run is stopped, whatever it is trained by."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch.optim.optimizer import register_optimizer_step_pre_hook


ENDED = "the budget ended"

__all__ = ["ENDED", "OutOfTimeError", "stopped_at"]


class OutOfTimeError(RuntimeError):
    """A run was stopped because its time was over."""


@contextmanager
def stopped_at(deadline: float | None) -> Iterator[None]:
    """
    Within, the first optimizer step after a moment is not taken, and the run is left by an error.

    It holds for every optimizer of `torch` in this process, so that strategies with a stock `Trainer` or a loop of
    their own stop as well. What takes no optimizer step, such as a probe of scikit-learn, is not stopped in between.

    Args:
        deadline (`float`, *optional*): in seconds of `time.monotonic()`; `None` for never.

    Raises:
        OutOfTimeError: at the beginning or at the first step after the deadline.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> with stopped_at(time.monotonic() + 60):
        ...     optimizer.step()
    """
    if deadline is None:
        yield
        return

    def check(*_: object) -> None:
        if time.monotonic() > deadline:
            raise OutOfTimeError(ENDED)

    check()
    handle = register_optimizer_step_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()
