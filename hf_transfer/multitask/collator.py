"""`TaskCollator`: a batch of several tasks, with a label column for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.multitask.task import TASK_COLUMN, Task, check_tasks


__all__ = ["TaskCollator"]


class TaskCollator:
    """
    A collator for data sets of several tasks, as [`mix_tasks`] makes them: inputs by another collator, a tensor of
    labels for each task, and `labels` of -100, which the model's own head is given.

    Rows that hold `labels` and no column of a task, such as those of an evaluation of one task, get a batch with
    their `labels`; rows without any label a batch of inputs.

    Args:
        collate (`Callable`):
            Makes a batch of the inputs of rows, such as `collator_for(tokenizer)`.
        tasks (`Sequence[Task]`):
            The tasks of the model.
        of_tokens (`bool`, *optional*, defaults to `False`):
            Whether the model is a classifier of tokens, whose own head takes a label for each token.
        values (`int`, *optional*, defaults to 0):
            Number of outputs of the model's own head where its configuration says that it is a regression or has
            several labels: it takes that many real numbers. [`TaskCollator.for_model`] reads both off a model.

    Shape:
        - `labels_<name>`: `(B,)` int64 classes; `(B,)` or `(B, C)` float32 values; `(B, C)` float32 of 0 and 1;
          `(B, T)` int64 for tokens, on the side on which the inputs are not padded. -100 where there is no label.
        - `task`: `(B,)` int64, where rows have it.
        - `labels`: `(B,)` or, of tokens, `(B, T)` int64, or `(B, C)` float32, as the model's own head takes them; all
          -100.

    Raises:
        ValueError: if rows have the columns of some tasks only; if labels of tokens are more than the tokens; if rows
            have different numbers of labels.

    Example:
        >>> collator = TaskCollator(torch.utils.data.default_collate, [Task("topic", num_labels=3)])
        >>> batch = collator([{"pixel_values": torch.ones(2), "labels_topic": label} for label in (2, -100)])
        >>> batch["labels_topic"].tolist(), batch["labels"].tolist()
        ([2, -100], [-100, -100])
    """

    def __init__(
        self,
        collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]],
        tasks: Sequence[Task],
        *,
        of_tokens: bool = False,
        values: int = 0,
    ):
        self.collate, self.tasks = collate, check_tasks(tasks)
        self.of_tokens, self.values = of_tokens, values

    @classmethod
    def for_model(
        cls, collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]], tasks: Sequence[Task], model: Any
    ) -> Self:
        """The collator for a model, also under PEFT, whose own head is given `labels` of the shape it takes."""
        inner = model.get_base_model() if hasattr(model, "peft_config") else model
        of_tokens = "TokenClassification" in type(inner).__name__
        several = inner.config.problem_type in ("regression", "multi_label_classification") and not of_tokens
        return cls(collate, tasks, of_tokens=of_tokens, values=inner.config.num_labels if several else 0)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of some rows."""
        columns = [task.column for task in self.tasks]
        present = [name for name in columns if name in features[0]]
        if not present:
            return self._of_one_task(features)
        missing = [name for name in columns if name not in present]
        if missing:
            raise ValueError(
                f"The rows have {', '.join(present)} and no {', '.join(missing)}: there would be no labels for "
                "the head of that task. Build the data set by `mix_tasks(datasets, tasks)` with all tasks."
            )
        taken = {*columns, TASK_COLUMN, "labels", "label"}
        batch = self._inputs(features, taken)
        for task in self.tasks:
            batch[task.column] = self._labels(task, [row[task.column] for row in features], features, batch)
        if TASK_COLUMN in features[0]:
            batch[TASK_COLUMN] = torch.tensor([int(row[TASK_COLUMN]) for row in features])
        batch["labels"] = self._ignored(len(features), batch)
        return batch

    def _ignored(self, rows: int, batch: Mapping[str, Any]) -> Tensor:
        """What the model's own head is given."""
        if self.values:
            return torch.full((rows, self.values), float(UNLABELLED))
        return torch.full((rows, _length(batch)) if self.of_tokens else (rows,), UNLABELLED)

    def _inputs(self, rows: Sequence[Mapping[str, Any]], taken: set[str]) -> dict[str, Any]:
        return dict(self.collate([{name: row[name] for name in row if name not in taken} for row in rows]))

    def _of_one_task(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = self._inputs(rows, {TASK_COLUMN, "labels", "label"})
        column = next((name for name in ("labels", "label") if name in rows[0]), None)
        if column is None:
            return batch
        values = [row[column] for row in rows]
        if np.ndim(values[0]) == 0:
            batch["labels"] = torch.tensor([torch.as_tensor(value).item() for value in values])
        elif _of_tokens(rows, values):
            batch["labels"] = _padded(values, batch, self._left(rows, batch), column)
        else:
            batch["labels"] = _stacked(values, column)
        return batch

    def _labels(
        self, task: Task, values: list[Any], rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]
    ) -> Tensor:
        if task.kind == "tokens":
            return _padded(values, batch, self._left(rows, batch), task.column)
        if task.kind == "classification":
            return torch.tensor([int(value) for value in values])
        return _stacked(values, task.column).float()

    def _left(self, rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]) -> bool:
        """Whether the inputs are padded on the left."""
        tokenizer = getattr(self.collate, "tokenizer", None)
        if tokenizer is not None:
            return tokenizer.padding_side == "left"
        # Without a tokenizer to ask, by the mask of the rows that were padded.
        mask, length = batch.get("attention_mask"), _length(batch)
        padded = [number for number, row in enumerate(rows) if len(row["input_ids"]) < length]
        return mask is not None and bool(padded) and not bool(mask[padded, 0].any())


def _length(batch: Mapping[str, Any]) -> int:
    if "input_ids" not in batch:
        raise ValueError(
            f"A batch of {', '.join(sorted(batch))} has no `input_ids`: labels of tokens have nothing to belong to. "
            "Tokenise the texts first, or leave tasks of kind `tokens` out."
        )
    return batch["input_ids"].shape[1]


def _of_tokens(rows: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> bool:
    return all(
        "input_ids" in row and len(value) == len(row["input_ids"]) for row, value in zip(rows, values, strict=True)
    )


def _padded(values: Sequence[Any], batch: Mapping[str, Any], left: bool, column: str) -> Tensor:
    labels = torch.full((len(values), _length(batch)), UNLABELLED)
    for row, value in enumerate(values):
        given = torch.as_tensor(value, dtype=torch.int64)
        if len(given) > labels.shape[1]:
            raise ValueError(
                f"`{column}` of row {row} of the batch holds {len(given)} labels for {labels.shape[1]} tokens: they "
                "would be given to the wrong ones. Tokenise texts and align labels together, as `prepare` does."
            )
        if len(given):
            labels[row, slice(-len(given), None) if left else slice(len(given))] = given
    return labels


def _stacked(values: Sequence[Any], column: str) -> Tensor:
    shapes = sorted({np.shape(value) for value in values})
    if len(shapes) > 1:
        raise ValueError(
            f"`{column}` holds {shapes[0]} labels in one row and {shapes[1]} in another: they make no tensor. Give "
            "every row one value for each class, 0 or 1, or -100 where it is unknown."
        )
    return torch.stack([torch.as_tensor(value) for value in values])
