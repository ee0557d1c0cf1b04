"""`Skipping`: the frozen blocks of a model stand still and the last one answers with a stored hidden state."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hf_transfer.callbacks.overrides import Override
from hf_transfer.frozen_prefix.recording import Recording, StandIn


__all__ = ["Skipping"]


class Skipping:
    """
    Stands in for the modules of a prefix while a stored hidden state is given.

    Args:
        model (`nn.Module`): the model.
        recording (`Recording`): what its modules return.

    Attributes:
        hidden (`Tensor`, *optional*): the hidden state of the forward in progress; without one everything runs.
        used (`bool`): whether it was taken since it was set.
    """

    def __init__(self, model: nn.Module, recording: Recording):
        self.hidden: Tensor | None = None
        self.used = False
        self._overrides = [
            _Skipped(model.get_submodule(name), stand_in, self, last=name == recording.boundary)
            for name, stand_in in recording.stand_ins.items()
        ]

    def give(self, hidden: Tensor | None) -> None:
        """Set the hidden state of the next forward."""
        self.hidden, self.used = hidden, False

    def put_on(self) -> None:
        """Take the places of the modules' forwards."""
        for override in self._overrides:
            override.put_on()

    def take_off(self) -> None:
        """Give them back."""
        self.give(None)
        for override in self._overrides:
            override.take_off()


class _Skipped(Override):
    def __init__(self, module: nn.Module, stand_in: StandIn, skipping: Skipping, *, last: bool):
        super().__init__(module)
        self.stand_in, self.skipping, self.last = stand_in, skipping, last

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        hidden = self.skipping.hidden
        if hidden is None:
            return self.inner(*args, **kwargs)
        if self.last:
            self.skipping.used = True
            return self.stand_in.around(hidden)
        return self.stand_in.passing(args, kwargs, hidden)
