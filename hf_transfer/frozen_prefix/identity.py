"""What the stored hidden states depend on: the rows as the model sees them, and how they are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding, default_data_collator
from transformers.trainer_utils import RemoveColumnsCollator
from transformers.utils.import_utils import is_datasets_available

from hf_transfer.features.cache.checksums import new_checksum, object_digest
from hf_transfer.features.cache.digests import data_digest
from hf_transfer.frozen_prefix.rows import read_rows
from hf_transfer.random_state import random_numbers_put_back


__all__ = ["collator_digest", "lengths_of", "repeats", "rows_digest"]

_BATCH = 1000
_LOOKS = 3


def rows_digest(dataset: Any, without: set[str]) -> str:
    """
    A checksum of all rows of a training set.

    Args:
        dataset (`datasets.Dataset` or map-style torch dataset): the rows; one of torch is read through.
        without (`set[str]`): columns that the hidden states do not depend on, such as labels.
    """
    if is_datasets_available():
        import datasets

        if isinstance(dataset, datasets.Dataset):
            return data_digest(dataset, [name for name in dataset.column_names if name not in without])
    checksum = new_checksum()
    for row in range(len(dataset)):
        for name, value in sorted(dataset[row].items()):
            if name not in without:
                array = np.asarray(value)
                checksum.update(f"{row} {name} {array.dtype} {array.shape}".encode())
                checksum.update(
                    repr(value).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
                )
    return checksum.hexdigest()


def collator_digest(collate: Callable[..., Any]) -> str:
    """A checksum of a collator; those that only pad or stack are told by their class."""
    if isinstance(collate, RemoveColumnsCollator):  # what it leaves out the model does not take
        return collator_digest(collate.data_collator)
    if collate is default_data_collator:
        return "default"
    if type(collate) in (DataCollatorWithPadding, DataCollatorForTokenClassification):
        return type(collate).__name__
    return object_digest(collate)


def lengths_of(dataset: Any, name: str) -> np.ndarray:
    """
    Number of tokens of every row, `(rows,)` int64.

    Example:
        >>> lengths_of([{"input_ids": [5]}, {"input_ids": [6, 7]}], "input_ids").tolist()
        [1, 2]
    """
    if is_datasets_available():
        import datasets

        if isinstance(dataset, datasets.Dataset) and name in dataset.column_names:
            import pyarrow.compute as pc

            stored = dataset.select_columns([name]).with_format("arrow")
            tables = (stored[start : start + _BATCH] for start in range(0, len(stored), _BATCH))
            found = [pc.list_value_length(table[name]).to_numpy() for table in tables]  # type: ignore[index]
            return np.concatenate([np.zeros(0, np.int64), *found]).astype(np.int64)
    return np.asarray([len(dataset[row][name]) for row in range(len(dataset))], dtype=np.int64)


def repeats(dataset: Any, collate: Callable[[list[Any]], Any], rows: Sequence[int]) -> bool:
    """Whether rows read and collated again are the same; global random numbers go on as if nothing was read."""
    with random_numbers_put_back():
        first, *others = [collate(read_rows(dataset, rows)) for _ in range(_LOOKS)]
    return all(_equal(first[name], other.get(name)) for other in others for name in first)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and all(_equal(one[key], other.get(key)) for key in one)
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))
