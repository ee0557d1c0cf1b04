"""`with_index`: a data set whose rows know their number, for objectives that remember single rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch.utils.data
from transformers.utils.import_utils import is_datasets_available


if TYPE_CHECKING:
    import datasets

INDEX = "index"
"""Column with the number of each row."""

Data = TypeVar("Data")

__all__ = ["INDEX", "with_index"]


def with_index(dataset: Data) -> Data:
    """
    The data set with an int64 column `index`, the number of each row.

    Nothing is copied or decoded, and a format or transform goes on working. Rows keep their number through `shuffle`,
    `select` and epochs. Call it last, after `mix_domains`: rows of two data sets would share numbers.

    Args:
        dataset (`datasets.Dataset` or map-style `torch.utils.data.Dataset`):
            The training data; items of a torch data set are mappings.

    Raises:
        TypeError: if it is a stream or no data set; when an item of a torch data set is no mapping.
        ValueError: if it has a column `index` already.

    Example:
        >>> from datasets import Dataset
        >>> with_index(Dataset.from_dict({"text": ["a", "b"]})).to_dict()
        {'text': ['a', 'b'], 'index': [0, 1]}
    """
    data: Any = dataset
    if is_datasets_available():
        import datasets

        if isinstance(data, datasets.Dataset):
            return _with_column(data)  # pyright: ignore[reportReturnType]
    is_torch = isinstance(data, torch.utils.data.Dataset)
    if not is_torch or isinstance(data, torch.utils.data.IterableDataset) or not hasattr(data, "__len__"):
        raise TypeError(
            f"with_index got a {type(data).__name__}: a stream has no row numbers that stay, and one split is needed. "
            "Pass a `datasets.Dataset` or a map-style torch data set, or yield a column `index` of your own."
        )
    return IndexedRows(data)  # pyright: ignore[reportReturnType]


class IndexedRows(torch.utils.data.Subset):
    """
    A torch data set whose items hold their number.

    Args:
        dataset (map-style `torch.utils.data.Dataset`): whose items are mappings.
    """

    # A subset of all rows: what looks through subsets for the domains of a mixed data set finds them here too.
    def __init__(self, dataset: Any):
        super().__init__(dataset, range(len(dataset)))

    def __getitem__(self, idx: Any) -> dict[str, Any]:
        """The item with its number."""
        return self.__getitems__([idx])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several items, each with its number."""
        return [self._numbered(int(row)) for row in indices]

    def _numbered(self, row: int) -> dict[str, Any]:
        row = self.indices[row]
        item = self.dataset[row]
        if not isinstance(item, Mapping):
            raise TypeError(
                f"Item {row} is a {type(item).__name__}: there is no place for its number. Return a dict such as "
                '`{"pixel_values": image, "labels": label}` from `__getitem__`.'
            )
        if INDEX in item:
            raise ValueError(_present())
        return {**item, INDEX: row}


@dataclass(frozen=True)
class IndexedTransform:
    """
    A transform of `with_transform` that hands the row numbers on.

    Args:
        transform (`Callable`): takes a batch as a dict of columns and returns one.
        columns (`tuple[str, ...]`): those it gets.
    """

    transform: Callable[[dict[str, Any]], dict[str, Any]]
    columns: tuple[str, ...]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Transform a batch."""
        if set(batch) == {INDEX}:
            return batch  # `dataset["index"]`: only this column was read
        seen = {name: values for name, values in batch.items() if name in self.columns}
        return {**self.transform(seen), INDEX: batch[INDEX]}


def _with_column(dataset: datasets.Dataset) -> datasets.Dataset:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo, Features, Value
    from datasets.fingerprint import Hasher
    from datasets.table import InMemoryTable, concat_tables

    if INDEX in dataset.column_names:
        raise ValueError(_present())
    format = dataset.format
    plain = dataset.with_format(None)
    # Behind the indices of a shuffled or selected data set: `add_column` would rewrite every input through them.
    numbers = pa.table({INDEX: pa.array(np.arange(len(plain.data), dtype=np.int64))})
    indexed = Dataset(
        concat_tables([plain.data, InMemoryTable(numbers)], axis=1),
        info=DatasetInfo(features=Features({**plain.features, INDEX: Value("int64")})),
        indices_table=plain._indices,  # no public reader in datasets 5.2; the constructor takes it publicly
        fingerprint=Hasher.hash([plain._fingerprint, INDEX]),
    )
    if format["type"] is None:
        return indexed
    columns, options = [*format["columns"], INDEX], dict(format["format_kwargs"])
    if format["type"] == "custom":
        transform = IndexedTransform(options.pop("transform"), tuple(format["columns"]))
        return indexed.with_transform(transform, columns=columns, output_all_columns=format["output_all_columns"])
    return indexed.with_format(
        format["type"], columns=columns, output_all_columns=format["output_all_columns"], **options
    )


def _present() -> str:
    return (
        f"The data set has a column `{INDEX}` already: its rows would get a second number. Use it as it is if its "
        f'integers tell the rows apart, else rename it: `dataset.rename_column("{INDEX}", "number")`.'
    )
