"""Rows of text: a window is tokenised at once, and its batches are cut and padded with no loop over rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


MASK = "attention_mask"
LABELS = "labels"

__all__ = ["LABELS", "MASK", "Batch", "TextWindow", "from_arrow", "from_lists"]


@dataclass(frozen=True)
class Batch:
    """
    A collated batch.

    Args:
        positions (`np.ndarray`):
            Where its rows stand in their window, `(B,)`.
        inputs (`dict[str, Any]`):
            What the model is called with.
        mask (`Tensor`, *optional*):
            `(B, T)`, not zero at real tokens.
    """

    positions: np.ndarray
    inputs: dict[str, Any]
    mask: Tensor | None = None


class TextWindow:
    """
    Consecutive rows of text as tokens, one row after the other without padding.

    Padding that the rows bring along, told by their attention mask, is taken off, so that rows padded on the left, on
    the right or not at all give the same batches. A mask with holes inside a row is kept as it is.

    Args:
        columns (`Mapping[str, tuple[np.ndarray, np.ndarray]]`):
            Values of all rows end to end, `(sum T, ...)`, and lengths of the rows `(n,)`: of `input_ids` and whatever
            else there is per token, such as `attention_mask` and the labels of tokens.
        reads (`set[str]`):
            Which of them the model reads.
        pads (`Mapping[str, int]`):
            What padding holds by column, where it is not 0.
        first (`int`, *optional*, defaults to 0):
            Number of the first row in the data set, for messages.
        left (`bool`, *optional*, defaults to `False`):
            Whether to pad on the left.
        collator (`Callable`, *optional*):
            Pads instead.

    Raises:
        ValueError: if a row has no token; if columns differ in length.
    """

    def __init__(
        self,
        columns: Mapping[str, tuple[np.ndarray, np.ndarray]],
        reads: set[str],
        pads: Mapping[str, int],
        *,
        first: int = 0,
        left: bool = False,
        collator: Callable[[list[dict[str, Any]]], Any] | None = None,
    ):
        self.reads, self.pads, self.left, self.collator = reads, pads, left, collator
        lengths = columns["input_ids"][1]
        for name, (_, own) in columns.items():
            if not np.array_equal(own, lengths):
                row = int(np.flatnonzero(own != lengths)[0])
                raise ValueError(
                    f"Row {first + row} has {lengths[row]} `input_ids` and {own[row]} `{name}`: which belongs to "
                    f"which token is unknown. Give one `{name}` per token, or remove the column."
                )
        flat = {name: values for name, (values, _) in columns.items()}
        if MASK in flat:
            flat, lengths = _stripped(flat, lengths)
        if len(lengths) and not lengths.min():
            raise ValueError(
                f"Row {first + int(lengths.argmin())} has no token, as an empty text with a tokenizer that adds none: "
                "there is nothing to compute features of. Fill or drop such rows, `dataset.filter(...)`."
            )
        self.flat, self.lengths = flat, lengths
        self.starts = np.cumsum(lengths) - lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def order(self) -> np.ndarray:
        """Positions from the longest row to the shortest, so that the first batch is the largest."""
        return np.argsort(-self.lengths, kind="stable")

    def token_labels(self) -> list[np.ndarray] | None:
        """The labels of each row's tokens, if there are such."""
        labels = self.flat.get(LABELS)
        return None if labels is None else np.split(labels.astype(np.int64), self.starts[1:])

    def collate(self, positions: np.ndarray) -> list[Batch]:
        """The rows at these positions as one padded batch."""
        lengths = self.lengths[positions]
        if self.collator is not None:
            return [self._collated(positions, lengths)]
        columns = np.arange(lengths.max())
        real = columns >= lengths.max() - lengths[:, None] if self.left else columns < lengths[:, None]
        # the places in the flat arrays of the tokens of these rows, end to end
        offsets = np.cumsum(lengths) - lengths
        tokens = np.repeat(self.starts[positions] - offsets, lengths) + np.arange(lengths.sum())
        inputs = {}
        for name, values in self.flat.items():
            if name != LABELS:
                # `datasets` stores masks and types of tokens in 8 bits, which embeddings do not take
                kept = np.int64 if np.issubdtype(values.dtype, np.integer) else values.dtype
                padded = np.full((*real.shape, *values.shape[1:]), self.pads.get(name, 0), kept)
                padded[real] = values[tokens]
                inputs[name] = torch.from_numpy(padded)
        mask = inputs.get(MASK)
        if mask is None:
            mask = inputs[MASK] = torch.from_numpy(real.astype(np.int64))
        return [Batch(positions, {name: value for name, value in inputs.items() if name in self.reads}, mask)]

    def _collated(self, positions: np.ndarray, lengths: np.ndarray) -> Batch:
        assert self.collator is not None
        rows = []
        for start, length in zip(self.starts[positions], lengths, strict=True):
            row = {name: values[start : start + length].tolist() for name, values in self.flat.items()}
            rows.append({MASK: [1] * int(length), **row})
        inputs = dict(self.collator(rows))
        return Batch(positions, {name: inputs[name] for name in inputs if name in self.reads}, inputs.get(MASK))


def _stripped(flat: dict[str, np.ndarray], lengths: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Without the tokens whose mask is 0, if in no row they stand between others."""
    real = flat[MASK] != 0
    if real.all():
        return flat, lengths
    rows = np.repeat(np.arange(len(lengths)), lengths)
    kept = rows[real]
    places = np.flatnonzero(real)
    # in a row without holes each real token stands next to the one before it
    if (np.diff(places)[np.diff(kept) == 0] != 1).any():
        return flat, lengths
    counts = np.bincount(kept, minlength=len(lengths))
    return {name: values[real] for name, values in flat.items()}, counts


def from_lists(values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Values end to end and lengths of a column that was read as one list (or tensor) per row."""
    lengths = np.array([len(row) for row in values])
    parts = [np.asarray(row) for row in values if len(row)]
    return (np.concatenate(parts) if parts else np.zeros(0, np.int64)), lengths


def from_arrow(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values end to end and lengths of an Arrow column of lists, with no loop over rows."""
    array = column.combine_chunks()
    if hasattr(array, "chunks"):  # a chunked array without or with one chunk, by version of pyarrow
        array = array.chunk(0)
    array = getattr(array, "storage", array)
    lengths = array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    values = array.flatten()
    nested = hasattr(values.type, "value_type")  # such as the four corners of a word's box
    return (np.asarray(values.to_pylist()) if nested else values.to_numpy(zero_copy_only=False)), lengths
