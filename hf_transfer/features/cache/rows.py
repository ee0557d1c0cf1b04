"""Columns of a data set as NumPy arrays, without a copy where the bytes already lie as they should."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Rows", "is_number", "matrix"]


class Rows:
    """
    Random access to the rows of a column, as arrays that lie in the memory-mapped file.

    It can be sent to worker processes, which map the files again.

    Args:
        dataset (`datasets.Dataset`):
            Such as [`Entry.dataset`] gives. Not shuffled; its format is ignored.
        column (`str`):
            Of numbers, or of lists of one length or of any.

    Shape:
        - `rows[i]`: `(D,)` for lists of numbers, `(T, D)` for lists of lists, `()` for numbers. Read-only.

    Raises:
        ValueError: if the rows do not lie in order; if the column cannot be read as arrays.

    Relations:
        [`matrix`] gives all rows at once, and after `shuffle` and `select` too.

    Example:
        >>> from datasets import Dataset, List, Value
        >>> tokens = Dataset.from_dict({"features": [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]]})
        >>> rows = Rows(tokens.cast_column("features", List(List(Value("float32"), length=2))), "features")
        >>> len(rows), rows[1].tolist()
        (2, [[3.0, 4.0], [5.0, 6.0]])
    """

    def __init__(self, dataset: Dataset, column: str):
        if dataset._indices is not None:
            raise ValueError(
                "The data set was shuffled or selected from - its rows no longer lie one after the other - give the "
                "data set as it was stored and look rows up by number, or call `flatten_indices()` first."
            )
        self.dataset = dataset
        self.column = column
        self._chunks = [_Chunk(chunk, column) for chunk in _chunks(dataset, column)]
        self._ends = np.cumsum([chunk.rows for chunk in self._chunks], dtype=np.int64).tolist()
        self._starts = [0, *self._ends]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> np.ndarray:
        row = index(row)
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(f"There is no row {row}, only {len(self)} rows - give 0 <= row < {len(self)}.")
        chunk = bisect_right(self._ends, row)
        return self._chunks[chunk].row(row - self._starts[chunk])

    def __iter__(self) -> Iterator[np.ndarray]:
        for chunk in self._chunks:
            for row in range(chunk.rows):
                yield chunk.row(row)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.dataset, self.column)


class _Chunk:
    """One Arrow array: its values as a NumPy array, and where each row begins if rows may differ in length."""

    def __init__(self, array: Any, column: str):
        import pyarrow as pa

        kinds = pa.types
        self.rows = len(array)
        self.offsets: np.ndarray | None = None
        _refuse_missing(array, column)
        if kinds.is_list(array.type) or kinds.is_large_list(array.type):
            self.offsets, array = array.offsets.to_numpy(), array.values
            _refuse_missing(array, column)
        shape = [len(array)]
        while kinds.is_fixed_size_list(array.type):
            size = array.type.list_size
            # unlike `flatten`, `values` never copies, and does not know of the slice
            array = array.values.slice(array.offset * size, len(array) * size)
            _refuse_missing(array, column)
            shape.append(size)
        if not is_number(array.type):
            raise ValueError(
                f"Column `{column}` holds {array.type} - only numbers, and lists of them of which at most the "
                "outermost differ in length, can be read as arrays - name a column of features or labels."
            )
        # booleans are stored as bits
        self.values = array.to_numpy(zero_copy_only=not kinds.is_boolean(array.type)).reshape(shape)
        self.values.flags.writeable = False

    def row(self, number: int) -> np.ndarray:
        """A view of one row."""
        if self.offsets is None:
            return self.values[number, ...]
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    def even(self) -> np.ndarray | None:
        """A view of all rows, or `None` if they differ in length."""
        if self.offsets is None:
            return self.values
        lengths = np.diff(self.offsets)
        if self.rows and (lengths != lengths[0]).any():
            return None
        length = int(lengths[0]) if self.rows else 0
        values = self.values[self.offsets[0] : self.offsets[-1]]
        return values.reshape(self.rows, length, *self.values.shape[1:])


def matrix(dataset: Dataset, column: str = "features") -> np.ndarray:
    """
    A column of a feature data set as one array, in the order of the data set.

    Args:
        dataset (`datasets.Dataset`):
            From [`extract_features`], or any with a column of numbers or of lists of one length. After `select`,
            `shuffle` or `concatenate_datasets` too; its format is ignored.
        column (`str`, *optional*, defaults to `"features"`):
            Which.

    Shape:
        - returns `(N, D)`, or `(N,)` for a column of numbers, in the type stored. Where the rows lie one after the
          other in one file it is a read-only view of that file, otherwise one copy.

    Raises:
        ValueError: if there is no such column; if rows differ in length, or a value is missing.

    Example:
        >>> from datasets import Dataset
        >>> matrix(Dataset.from_dict({"features": [[1.0, 2.0], [3.0, 4.0]]}).select([1])).tolist()
        [[3.0, 4.0]]
    """
    views = [_Chunk(chunk, column).even() for chunk in _chunks(dataset, column)]
    # an empty chunk has no length to differ in
    parts = [view for view in views if view is None or len(view)] or views[:1]
    widths = {None if part is None else part.shape[1:] for part in parts}
    if len(widths) > 1 or None in widths:
        raise ValueError(
            f"The rows of `{column}` differ in length, as those of tokens do - they do not make a matrix - pool them "
            'when they are extracted, with pooling="mean", or read them one by one with `Rows`.'
        )
    arrays: list[np.ndarray] = [part for part in parts if part is not None]
    if dataset._indices is not None:  # what `select` and `shuffle` leave; there is no public name in datasets 5.2
        return _gather(arrays, dataset._indices.column(0).to_numpy().astype(np.int64))
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _gather(parts: list[np.ndarray], indices: np.ndarray) -> np.ndarray:
    """The rows at `indices` of the parts one after the other, without a copy of the whole."""
    if len(parts) == 1:
        return parts[0][indices]
    gathered = np.empty((len(indices), *parts[0].shape[1:]), parts[0].dtype)
    ends = np.cumsum([len(part) for part in parts])
    owners = np.searchsorted(ends, indices, side="right")
    order = np.argsort(owners, kind="stable")
    borders = np.searchsorted(owners[order], np.arange(len(parts) + 1))
    for number, part in enumerate(parts):
        places = order[borders[number] : borders[number + 1]]
        gathered[places] = part[indices[places] - (ends[number] - len(part))]
    return gathered


def is_number(arrow_type: Any) -> bool:
    """Whether an Arrow type is one that NumPy computes with."""
    import pyarrow as pa

    return pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type) or pa.types.is_boolean(arrow_type)


def _chunks(dataset: Dataset, column: str) -> list[Any]:
    """The Arrow arrays of a column; at least one, which then says the type."""
    import pyarrow as pa

    if column not in dataset.column_names:
        raise ValueError(
            f"The data set has no column `{column}`, only {', '.join(dataset.column_names)} - there is nothing to "
            'read - name one of them, as in `column="features"`.'
        )
    stored = dataset.data.column(column)
    return list(stored.chunks) or [pa.array([], stored.type)]


def _refuse_missing(array: Any, column: str) -> None:
    if array.null_count:
        raise ValueError(
            f"{array.null_count} values of `{column}` are missing - an array has no place for them - drop these rows, "
            f'as with `dataset.filter(lambda row: row["{column}"] is not None)`.'
        )
