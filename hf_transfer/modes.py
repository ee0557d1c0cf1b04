"""A model in evaluation mode for a while, and everything put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hf_transfer.random_state import random_numbers_put_back


__all__ = ["at_rest", "modes_put_back", "undisturbed"]


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


@contextmanager
def undisturbed(model: nn.Module, seed: int | None = None) -> Iterator[None]:
    """
    A look at a model amid its training: in evaluation mode, without gradients, and with random numbers of its own.

    Not in `inference_mode`: what a model keeps of a forward, such as rotary tables, must serve the next step.

    Args:
        model (`nn.Module`): any.
        seed (`int`, *optional*): what the global generators start from within; they are put back in any case.
    """
    with at_rest(model), random_numbers_put_back(seed), torch.no_grad():
        yield
