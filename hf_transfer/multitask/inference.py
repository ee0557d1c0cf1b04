"""`infer_tasks`: the tasks that data sets are labelled for, by the features of their label columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Value

from hf_transfer.data.labels import flat_labels, list_lengths
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.multitask.label_arrays import is_list
from hf_transfer.multitask.parts import LabelColumns, Part, parts_of, task_numbers
from hf_transfer.multitask.reading import read_column, row_lengths
from hf_transfer.multitask.task import Task, check_tasks


__all__ = ["infer_tasks"]


def infer_tasks(
    datasets: Mapping[str, Dataset] | Dataset, *, label_columns: LabelColumns | None = None
) -> tuple[Task, ...]:
    """
    The tasks that data sets are labelled for, as far as their label columns tell.

    - `ClassLabel`: a classification, with the names of the classes; integers and booleans: one of as many classes as
      the highest number says.
    - real numbers: a regression.
    - lists as long as the tokens of their rows: a task of tokens.
    - lists of one length that hold 0 and 1: several labels; of other real numbers: a regression of several values.

    Args:
        datasets, label_columns: as for [`mix_tasks`].

    Raises:
        ValueError: if labels are text, or lists that fit none of these; and as [`mix_tasks`] does.

    Example:
        >>> stars = Dataset.from_dict({"text": ["good", "bad"], "label": [4.5, 1.0]})
        >>> taste = Dataset.from_dict({"text": ["salty", "sweet"], "label": [0, 1]})
        >>> [(task.name, task.kind, task.num_labels) for task in infer_tasks({"stars": stars, "taste": taste})]
        [('stars', 'regression', 1), ('taste', 'classification', 2)]
    """
    return inferred(parts_of(datasets, None, label_columns))


def inferred(parts: list[Part]) -> tuple[Task, ...]:
    """The tasks of some parts."""
    tasks = []
    for part in parts:
        numbers = task_numbers(part, list(part.columns)) if part.shares_column else None
        for number, (name, column) in enumerate(part.columns.items()):
            rows = None if numbers is None else numbers == number
            tasks.append(_task(name, part, column, rows))
    return check_tasks(tasks)


def _task(name: str, part: Part, column: str, rows: np.ndarray | None) -> Task:
    feature: Any = part.dataset.features[column]
    inner = feature.feature if is_list(feature) else feature
    values = read_column(part.dataset, column)
    values = values if rows is None else values.filter(pa.array(rows))
    if not isinstance(inner, (ClassLabel, Value)) or "string" in inner.dtype:
        raise ValueError(
            f"The labels of task `{name}` in {part.where} (column `{column}`) are {feature}: a loss needs numbers. "
            f'Call `dataset.class_encode_column("{column}")` for classes, or load the data with `load_splits`.'
        )
    names = tuple(inner.names) if isinstance(inner, ClassLabel) else ()
    flat = flat_labels(values)
    labelled = flat[flat != UNLABELLED]
    if not labelled.size:
        raise ValueError(
            f"Task `{name}` has no labelled row in {part.where} (column `{column}`): there is nothing to learn from. "
            "Add rows with labels, or leave the task out."
        )
    if not is_list(feature):
        if inner.dtype.startswith("float"):
            return Task(name, "regression")
        return Task(name, num_labels=len(names) or max(int(labelled.max()) + 1, 2), label_names=names)
    if _counts_tokens(part, column):
        return Task(name, "tokens", num_labels=len(names) or max(int(labelled.max()) + 1, 2), label_names=names)
    widths = np.unique(list_lengths(values)[values.is_valid().to_numpy()])
    if widths.size != 1:
        raise ValueError(
            f"The labels of task `{name}` in {part.where} are lists of {widths.min()} to {widths.max()} that go with "
            "no list of tokens: they are neither one label for each token nor for each class. Give rows of several "
            "labels a 0 or 1 for each class."
        )
    if np.isin(labelled, (0, 1)).all():
        return Task(name, "multi_label", num_labels=int(widths[0]))
    return Task(name, "regression", num_labels=int(widths[0]))


def _counts_tokens(part: Part, column: str) -> bool:
    """Whether the lists of a column are as long as those of an input."""
    dataset = part.dataset
    lengths = row_lengths(dataset, column)
    inputs = [name for name in part.inputs if is_list(dataset.features[name])]
    return any(np.array_equal(row_lengths(dataset, name), lengths) for name in inputs)
