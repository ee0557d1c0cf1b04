"""Columns of a data set, read past its indices: `datasets` gathers a shuffled column row by row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_transfer.data.labels import list_lengths


__all__ = ["read_column", "row_lengths"]


def read_column(dataset: Dataset, column: str) -> pa.ChunkedArray:
    """
    A column as it is stored, in the order of the rows; no format or transform is applied.

    Example:
        >>> read_column(Dataset.from_dict({"label": [5, 6, 7]}).select([2, 0]), "label").to_pylist()
        [7, 5]
    """
    indices = _indices(dataset)
    values = dataset.data.column(column)
    return values if indices is None else values.take(pa.array(indices))


def row_lengths(dataset: Dataset, column: str) -> np.ndarray:
    """
    Lengths of the lists of a column, `(rows,)` int64; 0 where it is null.

    Example:
        >>> row_lengths(Dataset.from_dict({"tokens": [["a"], ["b", "c"]]}).select([1, 0]), "tokens")
        array([2, 1])
    """
    indices = _indices(dataset)
    lengths = list_lengths(dataset.data.column(column))
    return lengths if indices is None else lengths[indices]


def _indices(dataset: Dataset) -> np.ndarray | None:
    indices = dataset._indices  # no public reader of the mapping in datasets 5.2
    return None if indices is None else np.asarray(indices.column(0).to_numpy(), dtype=np.int64)
