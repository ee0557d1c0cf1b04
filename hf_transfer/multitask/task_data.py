"""The data of a recipe's tasks: one data set for each, or one that is labelled for all."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from hf_transfer.data.loading import TransferData
from hf_transfer.data.preparation import prepare
from hf_transfer.data.subsets import random_rows, stratified_split
from hf_transfer.fine_tuning import HELD_OUT
from hf_transfer.multitask.arguments import MultitaskArguments
from hf_transfer.multitask.mixing import mix_tasks
from hf_transfer.multitask.task import Kind, Task
from hf_transfer.recipe_arguments import DataArguments


_KINDS: dict[str, Kind] = {"regression": "regression", "token-classification": "tokens"}

__all__ = ["TaskData"]


class TaskData:
    """
    What the tasks of a recipe are trained and scored on.

    Args:
        recipe (`MultitaskArguments`): which data.
        data_args (`DataArguments`): which rows, and how they are prepared.
        seed (`int`): draws the rows.

    Raises:
        ValueError: if tasks read different inputs, or a model cannot have heads for all of them; and whatever
            `load_splits` raises.
    """

    def __init__(self, recipe: MultitaskArguments, data_args: DataArguments, seed: int):
        self.data_args = data_args
        self.shared = bool(recipe.label_columns)
        """Whether every row is labelled for all tasks."""
        self.parts = _same_rows(recipe, data_args, seed) if self.shared else _own_rows(recipe, data_args, seed)
        self.tasks = [
            Task(name, _KINDS.get(part.task, "classification"), part.num_labels, part.label_names)
            for name, part in self.parts.items()
        ]
        self._check_inputs()

    @property
    def model_data(self) -> TransferData:
        """The data that decides on the class of the model: of whole rows, where a task is of these."""
        parts = list(self.parts.values())
        return next((part for part in parts if part.task != "token-classification"), parts[0])

    def train(self, processor: Any, names: list[str]) -> Dataset:
        """The training rows of some tasks as the model takes them."""
        tasks = [task for task in self.tasks if task.name in names]
        options = {
            "processor": processor,
            "max_length": self.data_args.max_length,
            "augment": self.data_args.augment(self.model_data, processor),
        }
        if not self.shared:
            return mix_tasks({name: self.parts[name].train for name in names}, tasks, **options)
        first = self.parts[names[0]].train
        joined = first.remove_columns("label")
        for task in tasks:
            labels = self.parts[task.name].train.select_columns(["label"]).rename_column("label", task.column)
            joined = concatenate_datasets([joined, labels], axis=1)
        return mix_tasks(joined, tasks, **options)

    def splits(self, processor: Any, split: str) -> dict[str, Dataset]:
        """The `eval` or `test` rows of every task that has some, with `labels`."""
        ready = partial(prepare, processor=processor, max_length=self.data_args.max_length)
        found = {name: getattr(part, split) for name, part in self.parts.items()}
        return {name: ready(rows) for name, rows in found.items() if rows is not None}

    def _check_inputs(self) -> None:
        images = {name: part.input_columns == ("image",) for name, part in self.parts.items()}
        if len(set(images.values())) > 1:
            of_images = ", ".join(name for name, own in images.items() if own)
            raise ValueError(
                f"Tasks {of_images} read images and the others text: no backbone here reads both. Train them as two "
                "models."
            )
        unknown = {part.task for part in self.parts.values()} & {"audio-classification"}
        if unknown:
            raise ValueError(
                "A task reads audio, for which no model is loaded here. Load it yourself and train with "
                "`MultiTaskTrainer`."
            )


def _own_rows(recipe: MultitaskArguments, data_args: DataArguments, seed: int) -> dict[str, TransferData]:
    parts = {name: data_args.load(source, seed) for name, source in recipe.sources.items()}
    return {
        name: part if part.eval is not None else part.with_validation(HELD_OUT, seed=seed)
        for name, part in parts.items()
    }


def _same_rows(recipe: MultitaskArguments, data_args: DataArguments, seed: int) -> dict[str, TransferData]:
    """One data set once for each label column; the rows and their order are the same in all."""
    whole = {"validation_fraction": None, "max_samples": None}
    name_or_path = str(recipe.dataset_name)
    parts = {
        name: data_args.load(name_or_path, seed, label_column=column, **whole)
        for name, column in recipe.sources.items()
    }
    first = next(iter(parts.values()))
    kept = np.arange(len(first.train))
    held_out = None
    if first.eval is None:
        # not by class: one task would decide for all
        fraction = data_args.validation_fraction or HELD_OUT
        kept, held_out = stratified_split(np.zeros(len(first.train), dtype=np.int64), fraction, seed=seed)
    if data_args.max_samples is not None:
        kept = kept[random_rows(len(kept), data_args.max_samples, seed=seed)]
    return {
        name: replace(
            part,
            train=part.train.select(kept),
            eval=part.eval if held_out is None else part.train.select(held_out),
        )
        for name, part in parts.items()
    }
