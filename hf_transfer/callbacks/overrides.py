"""`Override`: what a layer computes in training, changed without a trace in its parameters, state and class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


class Override:
    """
    Stands in for the `forward` of one module while it is put on. Subclasses define `compute`.

    Not a pair of hooks: those of torch are skipped when a `KeyboardInterrupt` passes, and what one hook changed would
    stay. Names, `state_dict` and the module's class are untouched, so it can be saved at any time.

    Args:
        module (`nn.Module`):
            The module whose forward is replaced.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.inner: Any = None
        """The module's own forward."""

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns; calls `self.inner`."""
        raise NotImplementedError(f"{type(self).__name__} must define `compute` and return what the module does.")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as the forward of the module."""
        return self.compute(*args, **kwargs)

    def put_on(self) -> None:
        """
        Take the place of the module's forward; harmless if it has it.

        Raises:
            ValueError: if another override of the same kind has it.
        """
        present = vars(self.module).get("forward")
        if present is self:
            return
        if isinstance(present, type(self)):
            raise ValueError(
                "Two callbacks of one kind change the same layers: the second would act on what the first made. Pass "
                "one of them to the Trainer."
            )
        self._before = present  # another library may have replaced it in the same way
        self.inner = self.module.forward
        self.module.forward = self

    def take_off(self) -> None:
        """Give the module its forward back; harmless if it has it."""
        if vars(self.module).get("forward") is self:
            if self._before is None:
                del self.module.forward
            else:
                self.module.forward = self._before
        self._before = self.inner = None


def put_on(overrides: Iterable[Override]) -> None:
    """Put all on."""
    for override in overrides:
        override.put_on()


def release(model: nn.Module) -> None:
    """
    Take off what an interrupted run left on the layers of a model; without any, do nothing.

    Args:
        model (`nn.Module`): the model.
    """
    for module in model.modules():
        if isinstance(override := vars(module).get("forward"), Override):
            override.take_off()
