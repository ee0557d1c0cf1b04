"""The global generators of random numbers, put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


__all__ = ["random_numbers_put_back"]


@contextmanager
def random_numbers_put_back(seed: int | None = None, *, accelerators: bool = True) -> Iterator[None]:
    """
    Whatever is drawn within, the generators of torch, NumPy and Python afterwards go on as if nothing had been.

    Args:
        seed (`int`, *optional*): what they start from within.
        accelerators (`bool`, *optional*, defaults to `True`): whether those of CUDA devices are among them.

    Example:
        >>> torch.manual_seed(0).initial_seed(), torch.rand(1).item() == torch.rand(1).item()
        (0, False)
        >>> with random_numbers_put_back(seed=1):
        ...     first = torch.rand(1)
        >>> with random_numbers_put_back(seed=1):
        ...     torch.equal(torch.rand(1), first)
        True
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    # those of a device that nothing was drawn on have no state yet; asking for it would start the device
    devices = range(torch.cuda.device_count()) if accelerators and torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            if seed is not None:
                torch.manual_seed(seed)
                np.random.seed(seed)
                random.seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
