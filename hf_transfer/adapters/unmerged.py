"""An adapter model as it was before a merge, to be put back if the merge fails."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


_TABLES = ("_modules", "_parameters", "_buffers")

__all__ = ["Unmerged"]


class Unmerged:
    """
    What a merge changes, kept by reference: the tree of modules, the tensors of the adapted layers, PEFT's records.

    From then on the adapted layers work on copies of their tensors, so that nothing done in place reaches the old
    ones. [`restore`] puts all back bit for bit, each parameter the same object with the same storage.

    Args:
        model (`PeftModel`): the model before the merge.
    """

    def __init__(self, model: Any):
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.base: nn.Module = model.get_base_model()
        self.layers: list[nn.Module] = [one for one in self.base.modules() if isinstance(one, BaseTunerLayer)]
        self._config = getattr(self.base, "peft_config", None)
        self._tables = [
            (getattr(module, table), dict(getattr(module, table)))
            for module in model.modules()
            for table in _TABLES
            if getattr(module, table)
        ]
        # lists and dictionaries in which layers keep what is merged
        self._records = [
            (layer, {key: _copied(value) for key, value in vars(layer).items() if key not in _TABLES})
            for layer in self.layers
        ]
        tensors = {id(tensor): tensor for layer in self.layers for tensor in _tensors(layer)}
        self._data = [(tensor, tensor.data) for tensor in tensors.values()]
        for tensor, data in self._data:
            tensor.data = data.clone()

    def restore(self) -> None:
        """Put everything back."""
        for table, before in self._tables:
            table.clear()
            table.update(before)
        for layer, record in self._records:
            vars(layer).update(record)
        for tensor, data in self._data:
            tensor.data = data
        if self._config is not None:
            vars(self.base)["peft_config"] = self._config


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _copied(value: Any) -> Any:
    # not hooks, which lie in ordered dictionaries that their handles know by identity
    return value.copy() if type(value) in (list, dict) else value
