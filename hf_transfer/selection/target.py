"""The rows that candidates are judged on: drawn once, in folds and random parts that are the same for all."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from transformers.utils import logging

from hf_transfer.data.class_names import named_labels, with_labels
from hf_transfer.data.columns import find_label_column
from hf_transfer.data.input_columns import find_input_columns, infer_task
from hf_transfer.data.loading import TransferData, load_splits
from hf_transfer.functional.task_loss import UNLABELLED


logger = logging.get_logger(__name__)

NEVER = -1
"""Fold of a row that is never held out: the only one of its class."""

__all__ = ["NEVER", "TargetRows", "read_target"]


@dataclass(frozen=True)
class TargetRows:
    """
    Labelled rows of the target.

    Args:
        data (`TransferData`): task, inputs and class names.
        rows (`datasets.Dataset`): `N` of its training rows; each is an example, which may have several tokens.
        kind (`str`): `single_label`, `token` or `regression`.
        folds (`np.ndarray`): `(N,)`, in which fold an example is held out.
        draws (`list[np.ndarray]`): sorted numbers of the examples of each random part, for intervals of scores.
        available (`int`): labelled examples before some were drawn.
    """

    data: TransferData
    rows: Dataset = field(repr=False)
    kind: Literal["single_label", "token", "regression"]
    folds: np.ndarray = field(repr=False)
    draws: list[np.ndarray] = field(repr=False)
    available: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def rows_per_class(self) -> float | None:
        """Labelled rows, of tokens words, for each class that occurs, in the mean; None for real values."""
        if self.kind == "regression":
            return None
        column = self.rows.select_columns(["label"])[:]["label"]
        labels = np.concatenate(column) if self.kind == "token" else np.asarray(column)
        labels = labels[labels != UNLABELLED]
        return len(labels) / len(np.unique(labels))

    @property
    def metric(self) -> str:
        """What k-NN and probe are scored by."""
        return "R2" if self.kind == "regression" else "accuracy"


def read_target(
    dataset: Any,
    *,
    max_rows: int | None = None,
    folds: int = 5,
    draws: int = 20,
    draw_rows: int = 500,
    seed: int = 0,
    config: str | None = None,
    split: str = "train",
    label_column: str | None = None,
    input_columns: Any = None,
) -> TargetRows:
    """
    Read a data set, draw rows of it, and divide them.

    Args:
        dataset (`str`, path, `datasets.Dataset` or `TransferData`): what to rank for; of several splits `split` alone.
        max_rows (`int`, *optional*): most rows; of tokens most labelled words, drawn by sentence. Of classes each has
            at least two rows of what there are, so that one can be held out.
        folds (`int`, *optional*, defaults to 5): in which rows are held out.
        draws (`int`, *optional*, defaults to 20): random parts.
        draw_rows (`int`, *optional*, defaults to 500): most examples of a part, which is at most 80% of all.
        seed (`int`, *optional*, defaults to 0): of all that is drawn.
        config, split, label_column, input_columns: as for [`load_splits`].

    Raises:
        TypeError: if the data set is none.
        ValueError: if it has no labels, several labels a row, or too few rows.
    """
    if isinstance(dataset, TransferData):
        data = dataset
    elif isinstance(dataset, (str, os.PathLike)):
        data = load_splits(
            dataset,
            config=config,
            train_split=split,
            label_column=label_column,
            input_columns=input_columns,
        )
    else:
        data = _as_data(dataset, label_column, input_columns)
    kind = "token" if data.task == "token-classification" else "single_label" if data.label_names else "regression"
    rows, labels = data.train, _labels(data.train, kind)
    if kind == "single_label":
        labelled = np.flatnonzero(labels != UNLABELLED)
        if len(labelled) < len(labels):
            rows, labels = rows.select(labelled), labels[labelled]
    generator = np.random.default_rng(seed)
    chosen = _drawn(labels, kind, max_rows, generator)
    if len(chosen) < len(rows):
        logger.info(f"{len(chosen)} of {len(rows)} rows are drawn to rank by.")
    available = len(rows)
    rows, labels = rows.select(chosen), labels[chosen]
    _check(rows, labels, kind, folds)
    parts = [_part(labels, kind, draw_rows, generator) for _ in range(draws)]
    return TargetRows(data, rows, kind, _folds(labels, kind, folds, seed), parts, available)


def _as_data(dataset: Any, label_column: str | None, input_columns: Any) -> TransferData:
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"The data set is a {type(dataset).__name__}: its rows cannot be drawn and counted. Pass a "
            "`datasets.Dataset` (of a `DatasetDict` one split), a name as for `load_splits`, or what that returns."
        )
    dataset = dataset.with_format(None)
    label = find_label_column(dataset.column_names, label_column)
    chosen = [input_columns] if isinstance(input_columns, str) else input_columns
    inputs = find_input_columns(dataset.features, label, chosen)
    labels = named_labels({"train": dataset}, label, train="train")
    part = dataset.select_columns(list(inputs)).rename_columns(inputs)
    part = with_labels(part, labels.columns["train"], labels.feature)
    names = labels.names
    return TransferData(
        part, None, None, infer_task(list(inputs.values()), classes=bool(names)), tuple(inputs.values()), names
    )


def _labels(rows: Dataset, kind: str) -> np.ndarray:
    """Class or value of each row; of tokens how many have a label."""
    column = rows.select_columns(["label"])[:]["label"]
    if kind == "token":
        return np.array([sum(label != UNLABELLED for label in labels) for labels in column], dtype=np.int64)
    return np.asarray(column, dtype=np.float64 if kind == "regression" else np.int64)


def _drawn(labels: np.ndarray, kind: str, most: int | None, generator: np.random.Generator) -> np.ndarray:
    order = generator.permutation(len(labels))
    if kind == "token":
        order = order[labels[order] > 0]
        if most is not None:
            order = order[: max(2, int(np.searchsorted(np.cumsum(labels[order]), most, side="right")))]
        return np.sort(order)
    if most is None or len(labels) <= most:
        return np.arange(len(labels))
    return np.sort(_spread(labels, order, most) if kind == "single_label" else order[:most])


def _spread(labels: np.ndarray, order: np.ndarray, most: int) -> np.ndarray:
    """The first `most` of an order, and of every class at least two where it has them."""
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    rank = np.empty(len(order), dtype=np.int64)  # of a row among those of its class
    sorted_rows = order[np.argsort(labels[order], kind="stable")]
    starts = np.searchsorted(labels[sorted_rows], labels[sorted_rows], side="left")
    rank[sorted_rows] = np.arange(len(order)) - starts
    return np.lexsort((place, rank > 1))[: max(most, int((rank < 2).sum()))]


def _part(labels: np.ndarray, kind: str, most: int, generator: np.random.Generator) -> np.ndarray:
    count = max(1, min(int(0.8 * len(labels)), most))
    order = generator.permutation(len(labels))
    if kind != "single_label":
        return np.sort(order[:count])
    return np.sort(_spread(labels, order, count))


def _folds(labels: np.ndarray, kind: str, folds: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import KFold, StratifiedKFold

    found = np.full(len(labels), NEVER)
    options: Any = {"shuffle": True, "random_state": seed}
    count = np.unique(labels, return_counts=True)[1]
    if kind == "single_label":
        splitter: Any = StratifiedKFold(min(folds, int(count.max())), **options)
    else:
        splitter = KFold(min(folds, len(labels)), **options)
    with warnings.catch_warnings():  # of classes with fewer rows than folds, which is no error
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, held) in enumerate(splitter.split(labels, labels)):
            found[held] = number
    if kind == "single_label":
        alone = np.isin(labels, np.unique(labels)[count == 1])
        found[alone] = NEVER
    return found


def _check(rows: Dataset, labels: np.ndarray, kind: str, folds: int) -> None:
    if folds < 2:
        raise ValueError(
            f"`folds={folds}` holds nothing out: candidates would be judged by rows that their probe was fitted to. "
            "Pass 2 or more."
        )
    classes, count = np.unique(labels, return_counts=True)
    if kind == "single_label" and (len(classes) < 2 or (count > 1).sum() < 2):
        raise ValueError(
            f"Of {len(classes)} classes in {len(rows)} rows fewer than two have two rows: nothing can be held out to "
            "judge by. Give more rows, or raise `max_rows`."
        )
    if kind != "single_label" and len(rows) < 4:
        raise ValueError(
            f"There are {len(rows)} labelled rows: held-out scores of so few say nothing. Give at least 4, better "
            "some hundred."
        )
    if kind == "regression" and not labels.std() > 0:
        raise ValueError(
            f"All {len(rows)} labels are {labels[0]:g}: there is nothing to predict, and R2 is not defined. Check the "
            "label column."
        )
