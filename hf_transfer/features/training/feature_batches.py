"""Batches of cached features at the speed of training: gathered from the memory-mapped table, not row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hf_transfer.features.cache.rows import Rows
from hf_transfer.functional.task_loss import UNLABELLED


if TYPE_CHECKING:
    import datasets

FEATURES = "features"
"""The column that `extract_features` writes the input of the head to."""

__all__ = ["FEATURES", "FeatureBatch", "FeatureCollator", "FeatureTable"]


@dataclass(frozen=True)
class FeatureBatch:
    """
    A batch that is collated already.

    No mapping: `Trainer` takes unused columns out of every mapping that reaches its collator.

    Args:
        tensors (`dict[str, Tensor]`):
            What the model is called with.
    """

    tensors: dict[str, Tensor]


class FeatureTable(Dataset):
    """
    A feature data set from which a `DataLoader` gets whole batches.

    Rows are copied from the memory-mapped file when they are asked for, so that memory does not grow with the data.
    Features of token classification are ragged: rows are padded with zeros to the longest of the batch, their labels
    with -100, and `attention_mask` says which tokens count.

    Args:
        dataset (`datasets.Dataset`):
            With a column `features`, as [`extract_features`] makes it; also selected, shuffled or sorted.
        columns (`Iterable[str]`):
            The columns to read.

    Raises:
        ValueError: if a column is missing, or holds something else than numbers.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({"features": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], "labels": [0, 1, 0]})
        >>> batch = FeatureTable(rows, ["features", "labels"]).__getitems__([2, 0])[0].tensors
        >>> batch["features"].tolist(), batch["labels"].tolist()
        ([[4.0, 5.0], [0.0, 1.0]], [0, 0])
    """

    def __init__(self, dataset: datasets.Dataset, columns: Iterable[str]):
        self.dataset = dataset
        self.columns = list(columns)
        # without indices, which are looked up for a batch at a time
        self._stored = type(dataset)(dataset.data, info=dataset.info)
        self._rows = {name: Rows(self._stored, name) for name in self.columns}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> FeatureBatch:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[FeatureBatch]:
        """The batch of these rows, alone in a list."""
        indices = self.dataset._indices
        places = np.asarray(rows, dtype=np.int64)
        if indices is not None:
            places = indices.column(0).take(places).to_numpy()
        read = {name: [column[place] for place in places] for name, column in self._rows.items()}
        return [FeatureBatch(_stacked(read))]


def _stacked(read: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Tensor]:
    """Tensors of the rows of each column; ragged ones are padded."""
    batch: dict[str, Tensor] = {}
    for name, rows in read.items():
        lengths = [len(row) if row.ndim else 0 for row in rows]
        if len(set(lengths)) > 1:
            filler = UNLABELLED if name == "labels" else 0
            stacked = np.full((len(rows), max(lengths), *rows[0].shape[1:]), filler, rows[0].dtype)
            for padded, row in zip(stacked, rows, strict=True):
                padded[: len(row)] = row
        else:
            stacked = np.stack(rows)
        if name == FEATURES and stacked.ndim == 3:
            batch["attention_mask"] = torch.from_numpy(np.arange(max(lengths)) < np.c_[lengths]).long()
        tensor = torch.from_numpy(stacked)
        if tensor.dtype == torch.float64:
            tensor = tensor.float()
        batch[name] = tensor if tensor.is_floating_point() else tensor.long()
    return batch


class FeatureCollator:
    """
    Hands on the batches of a [`FeatureTable`], stacks rows that hold `features`, and gives all others to `original`.

    Args:
        original (`Callable`):
            The collator of the model's own inputs.
    """

    def __init__(self, original: Callable[[list[Any]], dict[str, Any]]):
        self.original = original

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        """The batch of these rows."""
        if len(rows) == 1 and isinstance(rows[0], FeatureBatch):
            return rows[0].tensors
        if rows and isinstance(rows[0], Mapping) and FEATURES in rows[0]:
            return _stacked({name: [np.asarray(row[name]) for row in rows] for name in rows[0]})
        return self.original(rows)
