"""`mix_domains` for plain map-style torch datasets whose items are mappings."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_transfer.data.columns import (
    DOMAIN_COLUMN,
    IGNORE_INDEX,
    LABEL_COLUMNS,
    check_columns,
    check_not_empty,
    domain_name,
    find_label_columns,
    listed,
)
from hf_transfer.functional.task_loss import SAMPLE_WEIGHT


class MixedDataset(Dataset[dict[str, Any]]):
    """
    Torch datasets of several domains behind one index; made by [`mix_domains`], whose docstring holds the arguments.

    Items are read lazily, so of the labels only their form in the first item of each domain is checked.

    Attributes:
        domains (`np.ndarray`):
            Domain number of every row, `(rows,)` int64.
    """

    def __init__(
        self, domains: Sequence[Dataset[Any]], *, label_column: str | None = None, labelled: Collection[int] = (0,)
    ) -> None:
        sizes = [_size(domain, number) for number, domain in enumerate(domains)]
        check_not_empty(sizes)
        first = [_item(domain, 0, number) for number, domain in enumerate(domains)]
        self._labelled = frozenset(labelled)
        self._label_columns = find_label_columns([list(item) for item in first], label_column, self._labelled)
        inputs = [[n for n in item if n != column] for item, column in zip(first, self._label_columns, strict=True)]
        self._weighted = any(SAMPLE_WEIGHT in names for names in inputs)
        check_columns([sorted({*names, SAMPLE_WEIGHT}) for names in inputs] if self._weighted else inputs)
        leaks = [name for name in inputs[0] if name in LABEL_COLUMNS or name.startswith("label")]
        if leaks and len(self._labelled) < len(domains):
            raise ValueError(
                f"The items hold {listed(leaks)} besides the label column, which would still tell the labels of an "
                "unlabelled domain. Remove it from the items of every domain."
            )
        self.label_column = str(self._label_columns[0])
        label = first[0][self.label_column]
        # only lists of labels need a length: that of the input they belong to, e.g. one label per token
        self._length_column = _matching_input(first[0], self.label_column) if np.ndim(label) else None
        self._template = label
        self._datasets = list(domains)
        self._ends = list(accumulate(sizes))
        self.domains = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(f"Row {index} of a mixed dataset of {len(self)} rows; pass an index below {len(self)}.")
        number = bisect_right(self._ends, row)
        item = dict(_item(self._datasets[number], row - (self._ends[number - 1] if number else 0), number))
        column = self._label_columns[number]
        label = item.pop(column) if column is not None else self._stand_in(item, number)
        item[self.label_column] = label if number in self._labelled else _masked(label)
        item[DOMAIN_COLUMN] = number
        if self._weighted:
            item.setdefault(SAMPLE_WEIGHT, 1.0)
        return item

    def _stand_in(self, item: Mapping[str, Any], number: int) -> Any:
        if self._length_column is None or not np.ndim(self._template):
            return self._template
        return [IGNORE_INDEX] * len(item[self._length_column])


def _size(domain: Dataset[Any], number: int) -> int:
    try:
        return len(domain)  # type: ignore[arg-type]
    except TypeError as error:
        raise TypeError(
            f"{domain_name(number)} is a {type(domain).__qualname__} without a length; domains are alternated by row "
            "number. Define `__len__`, or pass a `datasets.IterableDataset`."
        ) from error


def _item(domain: Dataset[Any], row: int, number: int) -> Mapping[str, Any]:
    item = domain[row]
    if not isinstance(item, Mapping):
        raise TypeError(
            f"Items of {domain_name(number)} are {type(item).__qualname__}; the model and the mask find columns by "
            'name. Return a dict such as `{"pixel_values": image, "labels": label}` from `__getitem__`.'
        )
    return item


def _matching_input(item: Mapping[str, Any], label_column: str) -> str | None:
    shape = np.shape(item[label_column])
    names = [n for n, v in item.items() if n != label_column and not isinstance(v, str) and np.shape(v) == shape]
    return next((name for name in ("input_ids", "tokens") if name in names), next(iter(names), None))


def _masked(label: Any) -> Any:
    if isinstance(label, torch.Tensor):
        dtype = label.dtype if label.dtype.is_floating_point else torch.int64
        return torch.full_like(label, IGNORE_INDEX, dtype=dtype)
    if isinstance(label, np.ndarray):
        return np.full_like(label, IGNORE_INDEX, dtype=label.dtype if label.dtype.kind == "f" else np.int64)
    if isinstance(label, (list, tuple)):
        return [_masked(one) for one in label]
    return float(IGNORE_INDEX) if isinstance(label, (float, np.floating)) else IGNORE_INDEX
