"""The hidden states of all training rows, on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hf_transfer.frozen_prefix.extent import Unsuitable


if TYPE_CHECKING:
    from hf_transfer.features.cache import Entry

__all__ = ["Layout", "Table"]

COLUMN = "hidden"
_SHARD_BYTES = 64 << 20
_MOST_ROWS = 4096
_AS_INTEGERS = {torch.bfloat16: torch.uint16}  # a type that Arrow lacks is stored as its bits


@dataclass(frozen=True)
class Layout:
    """
    How the hidden state of a row is stored.

    Args:
        shape (`tuple[int, ...]`): that of a row, or of one token if rows differ in length.
        dtype (`torch.dtype`): its type.
        lengths (`np.ndarray`, *optional*): tokens per row, `(rows,)`, if rows differ in length.
        rows (`int`): number of rows.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: int
    lengths: np.ndarray | None = None

    @classmethod
    def of(cls, hidden: Tensor, mask: Tensor | None, *, rows: int, lengths: np.ndarray | None) -> Layout:
        """
        The layout for hidden states like `hidden` of a batch with this attention mask.

        Raises:
            Unsuitable: if rows differ in length and the mask does not say which hidden states are padding.
        """
        if lengths is None or (lengths == lengths[0]).all():
            return cls(tuple(hidden.shape[1:]), hidden.dtype, rows)
        if mask is None or mask.dim() != 2 or mask.shape != hidden.shape[:2]:
            seen = "there is no attention mask" if mask is None else f"the attention mask is {tuple(mask.shape)}"
            raise Unsuitable(
                f"Rows differ in length and hidden states are {tuple(hidden.shape)}, but {seen} - which of them are "
                "padding cannot be told - give rows of one length, or train without `cache_frozen_prefix`."
            )
        return cls(tuple(hidden.shape[2:]), hidden.dtype, rows, lengths)

    @property
    def ragged(self) -> bool:
        """Whether rows differ in length."""
        return self.lengths is not None

    @property
    def bytes(self) -> int:
        """Size of the whole table on disk."""
        return int(self._values * self.dtype.itemsize)

    @property
    def _values(self) -> int:
        units = self.rows if self.lengths is None else int(self.lengths.sum())
        return units * int(np.prod(self.shape, dtype=np.int64))

    @property
    def mean_values(self) -> float:
        """Numbers per row, on average."""
        return self._values / max(self.rows, 1)

    @property
    def shard_rows(self) -> int:
        """Rows per shard: as many as fit in 64 MiB on average."""
        row = max(self.bytes // max(self.rows, 1), 1)
        return int(min(max(_SHARD_BYTES // row, 1), _MOST_ROWS))

    @property
    def stored(self) -> torch.dtype:
        """The type on disk."""
        return _AS_INTEGERS.get(self.dtype, self.dtype)

    def features(self) -> Any:
        """The column on disk."""
        from datasets import Features, List, Value

        length = -1 if self.ragged else int(np.prod(self.shape, dtype=np.int64))
        return Features({COLUMN: List(Value(str(self.stored).removeprefix("torch.")), length=length)})

    def describe(self) -> dict[str, Any]:
        """What makes it differ from another layout, as JSON."""
        return {"shape": list(self.shape), "dtype": str(self.dtype), "ragged": self.ragged}


class Table:
    """
    Reads and writes the hidden states of training rows.

    Args:
        entry (`Entry`): where they lie.
        layout (`Layout`): how.
    """

    def __init__(self, entry: Entry, layout: Layout):
        self.entry = entry
        self.layout = layout
        self._rows: Any = None

    def flat(self, hidden: Tensor, mask: Tensor | None) -> list[np.ndarray]:
        """
        The hidden states of a batch row by row, without padding.

        Raises:
            Unsuitable: if they do not have the layout of the table.
        """
        layout = self.layout
        shape = tuple(hidden.shape[2 if layout.ragged else 1 :])
        if shape != layout.shape or hidden.dtype != layout.dtype:
            raise Unsuitable(
                f"Hidden states are {hidden.dtype} {shape} in one batch and {layout.dtype} {layout.shape} in another "
                "- they cannot be one table - give inputs of one size, or train without `cache_frozen_prefix`."
            )
        values = hidden.detach().cpu().contiguous()
        if layout.ragged:
            if mask is None or mask.shape != hidden.shape[:2]:
                raise Unsuitable(
                    f"A batch has hidden states {tuple(hidden.shape)} and no attention mask of that size - which of "
                    "them are padding cannot be told - train without `cache_frozen_prefix`."
                )
            rows = [row[kept] for row, kept in zip(values, mask.cpu().bool(), strict=True)]
        else:
            rows = list(values)
        return [row.contiguous().view(layout.stored).reshape(-1).numpy() for row in rows]

    def write(self, shard: int, rows: list[np.ndarray]) -> None:
        """Store the rows of a shard."""
        values = rows if self.layout.ragged else np.stack(rows)
        self.entry.write(shard, {COLUMN: values}, self.layout.features())

    def open(self) -> None:
        """Map the file: from now on rows can be taken."""
        self._rows = self.entry.rows_of(COLUMN)

    def take(self, rows: Sequence[int], mask: Tensor | None) -> Tensor:
        """
        The hidden states of some rows, padded as `mask` is.

        Args:
            rows (`Sequence[int]`): their numbers.
            mask (`Tensor`, *optional*): attention mask of the batch `(B, T)`, if rows differ in length.

        Shape:
            - returns `(B, T, ...)`, zero where the mask is, or `(B, ...)`.

        Raises:
            RuntimeError: if a row does not have as many tokens as when it was stored.
        """
        layout = self.layout
        found = [self._rows[row] for row in rows]
        if not layout.ragged:
            return _tensor(np.stack(found), layout).view(len(rows), *layout.shape)
        assert mask is not None
        kept = mask.cpu().bool()
        width = int(np.prod(layout.shape, dtype=np.int64))
        stored, seen = [len(row) // width for row in found], kept.sum(1).tolist()
        if stored != seen:
            raise RuntimeError(
                f"Training rows have {seen} tokens, but {stored} when their hidden states were stored - the wrong "
                "ones would be learned from - do not change the data while it is trained on, or train without "
                "`cache_frozen_prefix`."
            )
        hidden = torch.zeros(*kept.shape, *layout.shape, dtype=layout.dtype)
        hidden[kept] = _tensor(np.concatenate(found), layout).view(-1, *layout.shape)
        return hidden


def _tensor(values: np.ndarray, layout: Layout) -> Tensor:
    return torch.from_numpy(values).view(layout.dtype)
