"""The class of every row, as numbers, from arrays or a data set whose inputs are not decoded for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from hf_transfer.functional.task_loss import UNLABELLED


__all__ = ["class_labels"]


def class_labels(data: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """
    Class numbers `(N,)` int64, -100 where a row has none, and the names of the classes by number (empty if unknown).

    Args:
        data (`datasets.Dataset`, array, tensor or sequence):
            One class a row: integers, or names, which are numbered in alphabetical order. Of a data set its column
            `labels`, else `label`.

    Raises:
        ValueError: if a data set has no such column or is a stream, or the labels are not one class a row.

    Example:
        >>> class_labels(["cat", "dog", "cat"])
        (array([0, 1, 0]), ('cat', 'dog'))
    """
    names: tuple[str, ...] = ()
    if isinstance(data, Subset):
        numbers, names = class_labels(data.dataset)
        return numbers[np.asarray(data.indices, dtype=np.int64)], names
    columns = getattr(data, "column_names", None)  # told by attribute: `datasets` is no dependency
    if columns is not None:
        column = next((name for name in ("labels", "label") if name in columns), None)
        if column is None:
            raise ValueError(
                f"The data set has the columns {', '.join(columns)}, but neither `labels` nor `label`: episodes are "
                "drawn class by class. Rename the column of the classes, or pass their numbers as a list."
            )
        names = tuple(getattr(data.features[column], "names", None) or ())
        if not hasattr(data, "__len__"):
            raise ValueError(
                "The data set is a stream: rows of a class are drawn by their numbers, which it does not have. Load "
                "it without `streaming=True`, or take a part of it into a `Dataset`."
            )
        data = data.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    labels = data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else _as_array(data)
    if labels.ndim == 1 and labels.dtype.kind in "US":
        known, numbers = np.unique(labels.astype(str), return_inverse=True)
        return numbers.reshape(-1), tuple(known.tolist())
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"The labels are an array of shape {labels.shape} and type {labels.dtype}: an episode holds rows of "
            f"single classes. Pass one integer or name a row, {UNLABELLED} where a row has none."
        )
    return labels.astype(np.int64), names


def _as_array(values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:  # lists of different lengths
        return np.asarray([None] * len(values), dtype=object)
