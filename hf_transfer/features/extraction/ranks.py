"""Several processes that fill one entry of the cache together, and one that does it alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed


__all__ = ["Ranks"]


class Ranks:
    """
    This process among those that were started together; by itself it is the one of one.

    Attributes:
        index (`int`): of this process.
        count (`int`): of processes.
    """

    def __init__(self) -> None:
        self.index, self.count = 0, 1
        together = distributed.is_available() and distributed.is_initialized()
        # Only where there are others: the state is global, and a Trainer made later wants to set it up itself.
        if together or int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            # without an accelerator it would be one process of one, unless told so
            state = PartialState(cpu=not torch.accelerator.is_available())
            self.index, self.count = state.process_index, state.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this is the first process."""
        return self.index == 0

    def share(self, items: Sequence[Any]) -> list[Any]:
        """Every `count`-th of the items, from the one at `index` on."""
        return list(items[self.index :: self.count])

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, which wait for each other."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def from_main(self, value: Callable[[], Any]) -> Any:
        """What the first process finds; the others wait for it."""
        if self.count == 1:
            return value()
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value() if self.is_main else None])[0]

    def require_same(self, key: str) -> None:
        """
        Check that all processes were given the same.

        Raises:
            RuntimeError: if the keys of two processes differ.
        """
        keys = self.gather(key)
        if len(set(keys)) > 1:
            raise RuntimeError(
                f"The {self.count} ranks were given different models, data or arguments (keys {', '.join(keys)}): "
                "each would fill its own entry in part. Give all ranks the whole data set; it is shared out here."
            )

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """
        What is done here ends on all processes before it goes on on any.

        Raises:
            RuntimeError: if another process failed.
        """
        try:
            yield
        except Exception as error:
            self.gather(f"rank {self.index}: {type(error).__name__}: {error}")
            raise
        failures = [failure for failure in self.gather(None) if failure is not None]
        if failures:
            raise RuntimeError(
                f"Features are missing, as another rank failed ({failures[0]}). What was computed before is stored. "
                "Remove the cause and run again."
            )
