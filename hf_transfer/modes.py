"""Training and evaluation mode, put back module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


__all__ = ["at_rest", "modes_put_back"]


@contextmanager
def modes_put_back(model: nn.Module) -> Iterator[None]:
    """
    Afterwards each module is in the mode it was in, also after an error; `model.train()` would not tell them apart.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """
    The whole model in evaluation mode.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
        >>> with at_rest(model):
        ...     print(model[0].training)
        False
        >>> model[0].training, model[1].training
        (True, False)
    """
    with modes_put_back(model):
        model.eval()
        yield
