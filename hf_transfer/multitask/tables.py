"""The canonical data set of several tasks, on Arrow tables: inputs are neither copied nor decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, LargeList, List, Value, concatenate_datasets
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable, concat_tables

from hf_transfer.multitask.formats import with_formats
from hf_transfer.multitask.label_arrays import label_array, label_feature
from hf_transfer.multitask.part_checks import check_class_names, check_inputs
from hf_transfer.multitask.parts import Part, task_numbers
from hf_transfer.multitask.reading import read_column, row_lengths
from hf_transfer.multitask.sampler import check_numbers
from hf_transfer.multitask.task import TASK_COLUMN, Task


__all__ = ["mix_parts"]


def mix_parts(parts: Sequence[Part], tasks: Sequence[Task]) -> Dataset:
    """The rows of all parts with a label column for each task; see [`mix_tasks`] for the errors."""
    formats = [part.dataset.format for part in parts]
    parts = [part.with_dataset(part.dataset.with_format(None)) for part in parts]
    first = parts[0]
    mixed = []
    labelled = np.zeros(len(tasks), dtype=np.int64)
    for number, part in enumerate(parts):
        check_inputs(part, first)
        columns = _columns(part, tasks, labelled, number)
        inputs = part.dataset.select_columns(first.inputs)
        features = Features({name: first.dataset.features[name] for name in first.inputs})
        if inputs.features != features:
            inputs = inputs.cast(features)
        mixed.append(_with_columns(inputs, columns, tasks))
    empty = [task.name for task, count in zip(tasks, labelled, strict=True) if not count]
    if empty:
        raise ValueError(
            f"Task `{empty[0]}` has no labelled row: there is nothing to learn from. Add rows with labels, or leave "
            "the task out."
        )
    canonical = concatenate_datasets(mixed) if len(mixed) > 1 else mixed[0]
    return with_formats(canonical, formats, parts, tasks)


def _columns(part: Part, tasks: Sequence[Task], labelled: np.ndarray, number: int) -> dict[str, pa.Array]:
    """The label columns of a part, and the column `task` where its rows are of one task each."""
    rows, lengths = len(part.dataset), _lengths(part)
    numbers = None
    if part.task:
        numbers = np.full(rows, number, np.int64)
    elif part.by_row:
        numbers = task_numbers(part, [task.name for task in tasks])
        check_numbers(numbers, tasks)
    columns: dict[str, pa.Array] = {}
    for index, task in enumerate(tasks):
        name = part.columns.get(task.name)
        column = None
        if name is not None:
            check_class_names(task, part, name)
            column = read_column(part.dataset, name)
        kept = numbers == index if part.shares_column and numbers is not None else None
        array = label_array(task, column, rows=rows, kept=kept, lengths=lengths, where=part.where)
        flat = array.flatten() if pa.types.is_list(array.type) else array
        labelled[index] += int((np.asarray(flat) != -100).sum())
        columns[task.column] = array
    if numbers is not None:
        columns[TASK_COLUMN] = pa.array(numbers)
    return columns


def _lengths(part: Part) -> np.ndarray | None:
    """Number of tokens of each row, where an input tells."""
    name = next((name for name in ("input_ids", "tokens") if name in part.inputs), None)
    if name is None or not isinstance(part.dataset.features[name], (List, LargeList)):
        return None
    return row_lengths(part.dataset, name)


def _with_columns(inputs: Dataset, columns: Mapping[str, pa.Array], tasks: Sequence[Task]) -> Dataset:
    """
    Append columns to the table *behind* the indices of a shuffled or selected data set: `add_column` would rewrite
    every input through them. Rows that the indices leave out stay in the table; their labels are null.
    """
    indices = inputs._indices  # no public reader of the mapping in datasets 5.2; the constructor takes it publicly
    new = dict(columns)
    if indices is not None:
        position = np.full(len(inputs.data), -1)
        chosen = indices.column(0).to_numpy()
        position[chosen] = np.arange(len(chosen))
        take = pa.array(position, mask=position < 0)
        new = {name: array.take(take) for name, array in columns.items()}
    features = Features({task.column: label_feature(task) for task in tasks})
    if TASK_COLUMN in new:
        features[TASK_COLUMN] = Value("int64")
    table = pa.table({name: new[name] for name in features}).cast(features.arrow_schema)
    return Dataset(
        concat_tables([inputs.data, InMemoryTable(table)], axis=1),
        info=DatasetInfo(features=Features({**inputs.features, **features})),
        indices_table=indices,
        # without one the whole table would be hashed
        fingerprint=Hasher.hash([inputs._fingerprint, *((name, _content(array)) for name, array in columns.items())]),
    )


def _content(array: pa.Array) -> list[np.ndarray]:
    if not pa.types.is_list(array.type):
        return [np.asarray(array)]
    return [np.asarray(array.flatten()), np.asarray(array.value_lengths())]
