"""Base classes to train on and novel classes to test on, out of one data set or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, concatenate_datasets

from hf_transfer.data.class_names import with_labels
from hf_transfer.data.loading import TransferData


_WHOLE_ROWS = ("image-classification", "text-classification", "audio-classification")

__all__ = ["all_rows", "check_single_label", "split_classes", "with_classes"]


def split_classes(data: TransferData, count: int, *, seed: int) -> tuple[TransferData, TransferData]:
    """
    `count` random classes of a data set as base classes, and all others as novel ones; no row is in both.

    Args:
        data (`TransferData`): with one class a row.
        count (`int`): number of base classes.
        seed (`int`): draws them.

    Returns:
        base and novel classes, each numbered from 0 in the order of `data`, with all splits.

    Raises:
        ValueError: if there are not so many classes that two are left on either side.
    """
    classes = len(data.label_names)
    if not 2 <= count <= classes - 2:
        raise ValueError(
            f"`--base_classes {count}` of {classes} classes: there must be two or more to train on and two or more "
            f"that are new. Give a number from 2 to {max(classes - 2, 2)}, or other data with `--base_dataset_name`."
        )
    order = np.random.default_rng(seed).permutation(classes)
    return with_classes(data, np.sort(order[:count])), with_classes(data, np.sort(order[count:]))


def with_classes(data: TransferData, classes: Sequence[int] | np.ndarray) -> TransferData:
    """The rows of some classes of a data set, numbered from 0 in the order given."""
    names = tuple(data.label_names[number] for number in classes)
    splits = {
        role: None if split is None else _rows_of(split, classes, names)
        for role, split in {"train": data.train, "eval": data.eval, "test": data.test}.items()
    }
    return replace(data, label_names=names, **splits)  # type: ignore[arg-type]


def all_rows(data: TransferData) -> Dataset:
    """The rows of all splits: of classes that nothing was trained on, none need be held back."""
    return concatenate_datasets([split for split in (data.train, data.eval, data.test) if split is not None])


def check_single_label(data: TransferData, name: str) -> None:
    """
    Refuse data whose rows are not each of one class.

    Raises:
        ValueError: as said.
    """
    if data.task not in _WHOLE_ROWS or len(data.label_names) < 2:
        raise ValueError(
            f"`{name}` is for {data.task}: few-shot methods compare whole rows, each of one class. Give images, "
            "recordings or texts with one class a row."
        )


def _rows_of(split: Dataset, classes: Sequence[int] | np.ndarray, names: Sequence[str]) -> Dataset:
    labels = np.asarray(split.select_columns(["label"]).with_format("numpy")[:]["label"])
    numbers = np.full(max(labels.max(initial=-1), max(classes)) + 1, -1)
    numbers[np.asarray(classes)] = np.arange(len(classes))
    kept = np.flatnonzero((labels >= 0) & (numbers[labels] >= 0))
    rows = split.select(kept).remove_columns("label")
    return with_labels(rows, pa.array(numbers[labels[kept]]), ClassLabel(names=list(names)))
