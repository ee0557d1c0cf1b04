"""Lazy transforms (`with_transform`) of a data set of several tasks: every row through that of its own data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_transfer.data.columns import listed
from hf_transfer.data.transforms import DomainTransform
from hf_transfer.multitask.task import TASK_COLUMN


Batch = dict[str, Any]

__all__ = ["TaskTransform", "TaskTransforms"]


@dataclass(frozen=True)
class TaskTransform:
    """
    What `with_transform` was told about one data set, and its label column, where it has one of its own.

    Args:
        transform (`DomainTransform`, *optional*): the function and its columns; None leaves rows as they are.
        label (`str`, *optional*): name of the label column before it was renamed; empty to keep labels from it.
        column (`str`, *optional*): name of the column now.
    """

    transform: DomainTransform | None
    label: str = ""
    column: str = ""


@dataclass(frozen=True)
class TaskTransforms:
    """
    One transform for rows of several tasks out of one for each data set; a single one is for all rows.

    A transform is given its inputs, and the labels of its own task under their old name; those it returns take their
    place, such as labels that were aligned to the pieces of words. The labels of other tasks are handed on.

    Args:
        transforms (`Sequence[TaskTransform]`): by the number of the task, or one.
        columns (`Sequence[str]`): the label columns of all tasks.

    Raises:
        ValueError: at the first batch, if a transform changes the number of rows or two give different columns.

    Example:
        >>> shout = DomainTransform(lambda batch: {"text": [text.upper() for text in batch["text"]]}, ("text",))
        >>> transforms = TaskTransforms([TaskTransform(None), TaskTransform(shout)], ["labels_a"])
        >>> transforms({"text": ["x", "y"], "labels_a": [1, -100], "task": [0, 1]})
        {'text': ['x', 'Y'], 'labels_a': [1, -100], 'task': [0, 1]}
    """

    transforms: Sequence[TaskTransform]
    columns: Sequence[str]

    def __call__(self, batch: Batch) -> Batch:
        """Transform a batch whose rows may be of several tasks."""
        handed_on = {*self.columns, TASK_COLUMN}
        if set(batch) <= handed_on:
            return batch  # `dataset["task"]`: only labels were read
        rows = len(next(iter(batch.values())))
        tasks = [0] * rows if len(self.transforms) == 1 else [int(task) for task in batch[TASK_COLUMN]]
        mixed: Batch = {}
        for number in sorted(set(tasks)):
            chosen = [row for row, task in enumerate(tasks) if task == number]
            part = {name: [values[row] for row in chosen] for name, values in batch.items()}
            part = self._apply(self.transforms[number], part, len(chosen), handed_on)
            if mixed and set(part) != set(mixed):
                raise ValueError(
                    f"The transforms of the data sets of two tasks give different columns: {listed(mixed)} and "
                    f"{listed(part)} (task {number}); rows of one batch need the same. Let both return the same "
                    "columns."
                )
            for name, values in part.items():
                column = mixed.setdefault(name, [None] * rows)
                for row, value in zip(chosen, values, strict=True):
                    column[row] = value
        return mixed

    def _apply(self, task: TaskTransform, batch: Batch, rows: int, handed_on: set[str]) -> Batch:
        if task.transform is None:
            return batch
        columns = set(task.transform.columns)
        given: Batch = {name: values for name, values in batch.items() if name in columns - handed_on}
        if task.label in columns:
            given[task.label] = batch[task.column]
        output = dict(task.transform.function(given))
        labels = {name: output.pop(name) for name in (task.label, "labels") if name in output}
        if task.transform.output_all_columns:
            rest = {name: values for name, values in batch.items() if name not in {*columns, *handed_on}}
            output = {**rest, **output}
        output.update({name: values for name, values in batch.items() if name in handed_on})
        if task.column and labels:
            output[task.column] = next(iter(labels.values()))
        self._check(output, rows)
        return output

    def _check(self, output: Mapping[str, Any], rows: int) -> None:
        for name, values in output.items():
            if len(values) != rows:
                raise ValueError(
                    f"A transform made {len(values)} values of `{name}` out of {rows} rows; labels would no longer "
                    "belong to their rows. Return one value per row."
                )
