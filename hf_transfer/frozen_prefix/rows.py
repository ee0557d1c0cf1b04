"""Training rows that know their number, and that leave their input unread where nobody needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers.utils.import_utils import is_datasets_available


__all__ = ["ROW", "NumberedCollator", "NumberedRows", "read_rows", "row_numbers", "undecoded"]

ROW = "frozen_prefix_row"
"""Column with the number of each row; that of a row whose input was not read is -1 minus it."""

_OFF, _NUMBERED, _UNREAD = 0, 1, 2


class NumberedRows(Dataset):
    """
    A data set whose rows carry their number while a run asks for it.

    Args:
        dataset (`datasets.Dataset` or map-style torch dataset):
            Whose rows are mappings.
        name (`str`):
            The model's main input.

    Example:
        >>> rows = NumberedRows([{"input_ids": [5]}, {"input_ids": [6, 7]}], "input_ids")
        >>> rows[1]
        {'input_ids': [6, 7]}
        >>> rows.number()
        >>> rows[1]
        {'input_ids': [6, 7], 'frozen_prefix_row': 1}
    """

    def __init__(self, dataset: Any, name: str):
        self.dataset = dataset
        self.name = name
        self.plain: Any = None
        # In shared memory: the workers of a data loader must see it change.
        self._mode = torch.zeros((), dtype=torch.int64).share_memory_()

    def number(self, *, unread: bool = False) -> None:
        """Give rows their number from now on; with `unread`, and a data set in `plain`, without their input."""
        self._mode.fill_(_UNREAD if unread and self.plain is not None else _NUMBERED)

    def stop(self) -> None:
        """Give rows as they are."""
        self._mode.fill_(_OFF)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        mode = int(self._mode)  # once, so that all rows of a batch are alike
        if mode == _UNREAD:
            examples = [{**self.plain[int(row)], self.name: torch.full((1,), torch.nan)} for row in rows]
        else:
            examples = read_rows(self.dataset, rows)
        if mode == _OFF:
            return examples
        numbers = [-1 - int(row) if mode == _UNREAD else int(row) for row in rows]
        return [{**example, ROW: number} for example, number in zip(examples, numbers, strict=True)]


class NumberedCollator:
    """
    Collates rows that carry their number, whatever the collator makes of columns it does not know.

    Args:
        collate (`Callable`): the collator of the run.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]):
        self.collate = collate

    def __call__(self, examples: list[Any]) -> Any:
        """Collate, and add the column of numbers if the rows have one."""
        if not examples or not isinstance(examples[0], Mapping) or ROW not in examples[0]:
            return self.collate(examples)
        numbers = torch.tensor([example[ROW] for example in examples])
        batch = self.collate([{key: value for key, value in example.items() if key != ROW} for example in examples])
        batch[ROW] = numbers
        return batch


def row_numbers(column: Tensor) -> tuple[list[int], bool]:
    """
    The numbers of the rows of a batch, and whether the input of any of them was not read.

    Example:
        >>> row_numbers(torch.tensor([3, 0])), row_numbers(torch.tensor([-4, -1]))
        (([3, 0], False), ([3, 0], True))
    """
    numbers = column.tolist()
    return [row if row >= 0 else -1 - row for row in numbers], any(row < 0 for row in numbers)


def read_rows(dataset: Any, rows: Iterable[int]) -> list[dict[str, Any]]:
    """These rows of a data set, at once where it can."""
    rows = [int(row) for row in rows]
    if hasattr(dataset, "__getitems__"):  # the protocol of torch's data loaders; plain sequences lack it
        return dataset.__getitems__(rows)
    return [dataset[row] for row in rows]


def undecoded(dataset: Any, name: str, examples: Sequence[Mapping[str, Any]]) -> Any:
    """
    The data set without what only makes the input `name`, so that reading a row decodes nothing; `None` where the
    other columns of a row come out of its transform, too.

    Args:
        dataset (`datasets.Dataset` or torch dataset): the data.
        name (`str`): the input.
        examples (`Sequence[Mapping]`): its first rows, as they are read.
    """
    if not is_datasets_available() or not examples:
        return None
    import datasets

    if not isinstance(dataset, datasets.Dataset) or dataset.format["type"] != "custom":
        return None
    keys = sorted(set(examples[0]) - {name})
    if not keys or name not in examples[0] or not set(keys) <= set(dataset.column_names):
        return None
    plain = dataset.with_format(None).select_columns(keys)
    for row, example in enumerate(examples):
        if any(type(example[key]) is not type(plain[row][key]) or example[key] != plain[row][key] for key in keys):
            return None
    return plain
