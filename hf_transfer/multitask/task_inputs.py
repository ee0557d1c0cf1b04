"""The raw data of tasks as the model takes it: images lazily, texts tokenised, labels of words aligned to pieces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from datasets import Dataset, Features, concatenate_datasets
from torch import Tensor

from hf_transfer.data.input_columns import find_input_columns
from hf_transfer.data.preparation import prepare
from hf_transfer.multitask.parts import Part
from hf_transfer.multitask.task import TASK_COLUMN, Task


__all__ = ["prepared"]


def prepared(
    part: Part,
    tasks: Mapping[str, Task],
    processor: Any,
    *,
    max_length: int | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> Part:
    """
    A part with the inputs of a model; as it is, where it has a transform or inputs of a model already.

    Args:
        part (`Part`): of raw rows, with `text`, `image`, `tokens` or a column that is clearly meant.
        tasks (`Mapping[str, Task]`): the tasks by name; labels of tokens are aligned.
        processor, max_length, augment: as for [`prepare`].

    Raises:
        ValueError: if there is no input column, or several; and as `prepare` does.
    """
    dataset = part.dataset
    ready = {"input_ids", "pixel_values", "input_values", "input_features"} & set(dataset.column_names)
    if ready or dataset.format["type"] is not None:
        return part
    inputs = find_input_columns(Features({name: dataset.features[name] for name in part.inputs}), None)
    # `prepare` takes a column `label` or `labels` for the labels of its only task
    shared = part.shares_column
    labels = {column: "labels_of_task" if shared else f"labels_{name}" for name, column in part.columns.items()}
    kept = [*inputs, *labels, *([TASK_COLUMN] if TASK_COLUMN in dataset.column_names else [])]
    renamed = {old: new for old, new in {**inputs, **labels}.items() if old != new}
    dataset = dataset.select_columns(kept).rename_columns(renamed)
    part = replace(part, columns={name: labels[column] for name, column in part.columns.items()})
    of_tokens = [part.columns[name] for name in part.columns if tasks[name].kind == "tokens"]
    if "tokens" in dataset.column_names and of_tokens:
        dataset = _aligned(dataset, processor, list(dict.fromkeys(of_tokens)), max_length)
    else:
        dataset = prepare(dataset, processor, max_length=max_length, augment=augment)
    return part.with_dataset(dataset)


def _aligned(dataset: Dataset, tokenizer: Any, columns: list[str], max_length: int | None) -> Dataset:
    """
    Lists of words tokenised, and every column of their labels given to the first pieces: [`prepare`] does so for one
    column, `labels`, and the columns take turns in it.
    """
    outputs = {}
    for column in columns:
        others = [name for name in columns if name != column]
        turn = dataset.remove_columns(others)
        outputs[column] = prepare(turn.rename_column(column, "labels"), tokenizer, max_length=max_length)
    first = outputs.pop(columns[0]).rename_column("labels", columns[0])
    for column, turn in outputs.items():
        labels = turn.select_columns(["labels"]).rename_column("labels", column)
        first = concatenate_datasets([first, labels], axis=1)
    return first
