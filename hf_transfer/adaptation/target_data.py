"""Target data for adaptation: read in a known order, with every label taken out before anything sees it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import default_data_collator

from hf_transfer.data.columns import LABEL_COLUMNS
from hf_transfer.source import inputs_of


LABELS = frozenset({*LABEL_COLUMNS, "label_ids"})
"""Names under which a row may carry its label."""

Collator = Callable[[list[Any]], Mapping[str, Any]]

__all__ = ["LABELS", "TargetData"]


class TargetData:
    """
    Unlabelled rows of the target domain as batches of a model's inputs, each row with a number of its own.

    Args:
        model (`nn.Module`):
            Tells which inputs are read, and the device.
        data (`datasets.Dataset`, `torch.utils.data.Dataset`, `DataLoader` or an iterable of batches):
            Rows, or collated batches. Of a loader its data set, collator and batch size are taken.
        collator (`Callable`, *optional*):
            Makes a batch of rows; by default `default_data_collator`.
        batch_size (`int`, *optional*, defaults to 32):
            Rows of a batch, where rows are given.

    Raises:
        TypeError: if the data can be read only once.
        ValueError: if there are none, `batch_size` is below 1, or a batch has none of the model's inputs.
    """

    def __init__(self, model: nn.Module, data: Any, *, collator: Collator | None = None, batch_size: int = 32):
        if batch_size < 1:
            raise ValueError(f"`batch_size={batch_size}`: a batch needs rows. Give a positive number, such as 32.")
        if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset) and data.batch_size:
            # The loader's own order may change with each pass, and rows could not be told from one another.
            data, collator, batch_size = data.dataset, collator or data.collate_fn, data.batch_size
        if isinstance(data, Iterator):
            raise TypeError(
                f"The target data are a {type(data).__name__}, which can be read once: they are read several times. "
                "Give a data set, a `DataLoader`, or a list of batches."
            )
        self.model, self.data, self.batch_size = model, data, batch_size
        self.collate: Any = collator or default_data_collator
        self.by_row = _is_dataset(data)
        self.device = next(model.parameters()).device
        if isinstance(data, Sequence) and not len(data) or (self.by_row and not len(data)):
            raise ValueError(
                "The target data are empty: there is nothing to adapt to. Give rows of the target domain; they need "
                "no labels."
            )

    def batches(self, generator: torch.Generator | None = None) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """
        The numbers of the rows of each batch, and what the model reads of them.

        Args:
            generator (`torch.Generator`, *optional*): shuffles; without it rows come in their order. Batches that were
                given keep their rows, and an iterable that is no sequence its order.
        """
        for rows, batch in self._by_row(generator) if self.by_row else self._by_batch(generator):
            # Labels were taken out of the rows; a collator may have made some.
            inputs = inputs_of(self.model, {n: v for n, v in batch.items() if n not in LABELS}, self.device)
            count = _rows_of(inputs)
            if not count:
                raise ValueError(
                    f"A batch of the target data has {', '.join(sorted(batch)) or 'nothing'}, none of which "
                    f"{type(self.model).__name__} reads: it cannot look at the rows. Tokenise or process the data "
                    "first, or give a `collator` that does."
                )
            yield (list(range(rows.start, rows.start + count)) if isinstance(rows, range) else rows), inputs

    def _by_row(self, generator: torch.Generator | None) -> Iterator[tuple[list[int], Mapping[str, Any]]]:
        count = len(self.data)
        order = list(range(count)) if generator is None else torch.randperm(count, generator=generator).tolist()
        for start in range(0, count, self.batch_size):
            rows = order[start : start + self.batch_size]
            yield rows, self.collate([_without_labels(self.data[row]) for row in rows])

    def _by_batch(self, generator: torch.Generator | None) -> Iterator[tuple[range, Mapping[str, Any]]]:
        batches: Any = self.data
        if generator is not None and isinstance(batches, Sequence):
            order = torch.randperm(len(batches), generator=generator).tolist()
            starts = [0]
            for batch in batches:
                starts.append(starts[-1] + _rows_of(batch))
            listed: Sequence[Any] = batches
            for number in order:
                yield range(starts[number], starts[number + 1]), listed[number]
            return
        start = 0
        for batch in batches:
            stop = start + _rows_of(batch)
            yield range(start, stop), batch
            start = stop


def _is_dataset(data: Any) -> bool:
    # Asked of `sys.modules`: where nobody has imported `datasets`, this is none of its.
    tables = sys.modules.get("datasets")
    if tables is not None and isinstance(data, tables.Dataset):
        return True
    return isinstance(data, Dataset) and not isinstance(data, IterableDataset)


def _without_labels(row: Any) -> Any:
    return {name: value for name, value in row.items() if name not in LABELS} if isinstance(row, Mapping) else row


def _rows_of(batch: Mapping[str, Any]) -> int:
    """How many rows a batch has: the first length of its first tensor that is no label."""
    tensors = (v for n, v in batch.items() if isinstance(v, Tensor) and v.dim() and n not in LABELS)
    return len(next(tensors, ()))
