"""The rows of one shard while they are computed, in the order of the data set whatever the order of the batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor


if TYPE_CHECKING:
    from datasets import Features

__all__ = ["ShardColumns"]


class ShardColumns:
    """
    Features of the rows of one shard.

    Args:
        rows (`range`):
            Numbers of the rows, or of their views: `row * views + view`.
        dtype (`str`):
            Type in which they are stored, `"float32"` or `"float16"`.
        views (`int`, *optional*, defaults to 1):
            Per row.
    """

    def __init__(self, rows: range, dtype: str, *, views: int = 1):
        self.rows, self.dtype, self.views = rows, dtype, views
        self._pooled: dict[str, Tensor] = {}  # on the device of the model: one copy per shard, not per batch
        self._ragged: dict[str, list[np.ndarray]] = {}

    def add(self, positions: np.ndarray, features: dict[str, Tensor | list[Tensor]]) -> None:
        """The features of a batch, whose rows stand at these positions of the shard."""
        for name, values in features.items():
            if isinstance(values, Tensor):
                if name not in self._pooled:
                    self._pooled[name] = values.new_empty(len(self.rows), values.shape[1])
                self._pooled[name][torch.from_numpy(positions).to(values.device)] = values
            else:
                rows = self._ragged.setdefault(name, [np.empty(0)] * len(self.rows))
                for position, value in zip(positions, values, strict=True):
                    rows[position] = self._stored(value.float().cpu().numpy(), name, self.rows[position])

    def arrays(self, names: list[str]) -> dict[str, Any]:
        """
        The columns by name, in this order, with `id` (and `view`).

        Raises:
            ValueError: if a feature is not finite, or too large for the type.
        """
        arrays: dict[str, Any] = {}
        for name in names:
            if name in self._ragged:
                arrays[name] = self._ragged[name]
            else:
                arrays[name] = self._stored(self._pooled[name].float().cpu().numpy(), name)
        numbers = np.arange(self.rows.start, self.rows.stop, dtype=np.int64)
        arrays["id"] = numbers // self.views
        if self.views > 1:
            arrays["view"] = (numbers % self.views).astype(np.int32)
        return arrays

    def features(self, arrays: dict[str, Any], labels: Any = None) -> Features:
        """Types of the columns; `labels` that of the labels of tokens."""
        from datasets import Features, List, Value

        types: dict[str, Any] = {}
        for name, values in arrays.items():
            if name == "id":
                types[name] = Value("int64")
            elif name == "view":
                types[name] = Value("int32")
            elif name == "labels":
                types[name] = labels
            else:
                row = List(Value(self.dtype), length=values[0].shape[-1])
                types[name] = List(row) if isinstance(values, list) else row
        return Features(types)

    def _stored(self, values: np.ndarray, name: str, row: int | None = None) -> np.ndarray:
        finite = np.isfinite(values)
        if not finite.all():
            raise ValueError(
                f"Row {self._first(~finite, row)} has values in `{name}` that are not finite: nothing can be fitted "
                "to them. Check the weights and the inputs of that row; a model trained in bfloat16 may overflow "
                'under dtype="float16".'
            )
        with np.errstate(over="ignore"):
            stored = values.astype(self.dtype)
        if self.dtype == "float16" and np.isinf(stored).any():
            largest = float(np.abs(values).max())
            raise ValueError(
                f"Row {self._first(np.isinf(stored), row)} has values up to {largest:.4g} in `{name}`, half precision "
                'ends at 65504: they would be stored as infinite. Pass dtype="float32", or "bfloat16".'
            )
        return stored

    def _first(self, wrong: np.ndarray, row: int | None) -> int:
        number = self.rows[int(np.argwhere(wrong)[0][0])] if row is None else row
        return number // self.views
