"""The label columns of several tasks in the training data, looked at before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers.utils.import_utils import is_datasets_available

from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.multitask.task import TASK_COLUMN, Task


__all__ = ["check_label_columns", "missing_column"]

CHUNK = 10_000


def check_label_columns(tasks: Sequence[Task], batches: Iterable[Mapping[str, Any]]) -> None:
    """
    Refuse training data that some task cannot learn from.

    Of a `datasets.Dataset` the label columns alone are read; images and texts are left alone.

    Args:
        tasks (`Sequence[Task]`): the tasks of the model.
        batches (`Iterable[Mapping]`): collated batches of the whole training set, or a data loader over a data set.

    Raises:
        ValueError: if the column of a task is missing, holds a label that its head has not, or no label at all; if
            the column `task` holds a number without a task.
    """
    labelled = dict.fromkeys((task.name for task in tasks), False)
    for columns in _columns(tasks, batches):
        for task in tasks:
            if task.column not in columns:
                raise missing_column(task, columns)
            labels = columns[task.column]
            labels = labels[labels != UNLABELLED]
            labelled[task.name] |= len(labels) > 0
            _check_labels(task, labels)
        if TASK_COLUMN in columns:
            _check_numbers(tasks, columns[TASK_COLUMN])
    empty = [name for name, found in labelled.items() if not found]
    if empty:
        raise ValueError(
            f"Task `{empty[0]}` has no labelled row in the training data: its head would stay as it was drawn. Check "
            f"that `labels_{empty[0]}` holds labels beside {UNLABELLED}, add rows of the task, or leave it out."
        )


def missing_column(task: Task, columns: Iterable[str]) -> ValueError:
    """The error for data without the labels of a task."""
    return ValueError(
        f"MultiTask needs column `{task.column}` for task `{task.name}`; the batch has "
        f"{', '.join(sorted(columns)) or 'none of any task'}. Its head would learn nothing. Build the data set with "
        f"`mix_tasks(datasets, tasks)` and batches with `TaskCollator`, or add the column, {UNLABELLED} where a row "
        "has no label."
    )


def _columns(tasks: Sequence[Task], batches: Any) -> Iterator[dict[str, np.ndarray]]:
    """The label columns in pieces; of the other columns the names, so that an error can say what there is instead."""
    wanted = [TASK_COLUMN, *(task.column for task in tasks)]
    dataset = getattr(batches, "dataset", None)
    if is_datasets_available():
        import datasets

        if isinstance(dataset, datasets.Dataset) and {*wanted[1:]} <= {*dataset.column_names}:
            # only these columns: an image column or a transform must not run for them
            table = dataset.select_columns([name for name in wanted if name in dataset.column_names])
            piece: Any
            for piece in table.with_format("arrow").iter(batch_size=CHUNK):
                yield {name: _flat(piece.column(name)) for name in piece.column_names}
            return
    for batch in batches:
        yield {name: np.asarray(batch[name]).reshape(-1) if name in wanted else np.empty(0) for name in batch}


def _flat(column: Any) -> np.ndarray:
    import pyarrow

    array = column.combine_chunks() if isinstance(column, pyarrow.ChunkedArray) else column
    while hasattr(array.type, "value_type"):  # a list for each row
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False)


def _check_labels(task: Task, labels: np.ndarray) -> None:
    if task.kind == "regression":
        wrong, instead = labels[~np.isfinite(labels)], "finite numbers"
    elif task.kind == "multi_label":
        wrong, instead = labels[(labels != 0) & (labels != 1)], "0 or 1 for every class"
    else:
        wrong = labels[~((labels >= 0) & (labels < task.num_labels))]
        instead = f"numbers from 0 to {task.num_labels - 1}"
    if len(wrong):
        raise ValueError(
            f"`{task.column}` holds {wrong[0]}, for which the head of task `{task.name}` ({task.kind}, "
            f"{task.num_labels} outputs) has no answer: the loss would be wrong, or fail on the device. Give "
            f"{instead}, and {UNLABELLED} where there is no label."
        )


def _check_numbers(tasks: Sequence[Task], numbers: np.ndarray) -> None:
    wrong = numbers[(numbers < 0) | (numbers >= len(tasks))]
    if len(wrong):
        names = ", ".join(f"{number} = `{task.name}`" for number, task in enumerate(tasks))
        raise ValueError(
            f"The column `{TASK_COLUMN}` holds {wrong[0]}, which is none of {names}: no head would learn from these "
            "rows. Build the data set by `mix_tasks(datasets, tasks)` with the tasks of the model."
        )
