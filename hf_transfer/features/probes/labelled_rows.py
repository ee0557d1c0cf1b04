"""What a probe is fitted to or scored on: labelled rows as arrays, from a feature data set or from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from hf_transfer.functional.task_loss import UNLABELLED


Task = Literal["single_label", "multi_label", "regression", "token"]
"""What the labels are: one class a row, any number of classes a row, real numbers, one class a token."""

__all__ = ["ProbeRows", "Task", "read_features", "read_rows"]


@dataclass(frozen=True)
class ProbeRows:
    """
    Labelled rows; a token of a token classification is a row.

    Args:
        features (`np.ndarray`): `(N, D)`, of the type in which they were stored.
        targets (`np.ndarray`): `(N,)` int64 class numbers, or `(N, K)` float64 values, 0 and 1 for several labels.
        task (`str`): one of [`Task`].
        label_names (`tuple[str, ...]`): names of the classes by number; empty where the data has none.
        groups (`np.ndarray`, *optional*): `(N,)`, rows of one example have one number: its tokens, or its views.
    """

    features: np.ndarray
    targets: np.ndarray
    task: Task
    label_names: tuple[str, ...] = ()
    groups: np.ndarray | None = None


def read_rows(
    features: Any,
    labels: Any = None,
    *,
    column: str = "features",
    task: str | None = None,
    label_names: Sequence[str] | None = None,
) -> ProbeRows:
    """
    The labelled rows of a feature data set or of arrays.

    Args:
        features (`datasets.Dataset`, array or list of arrays):
            What `extract_features` returns, or `(N, D)`; `(N, T, D)` or a list of `(T, D)` for tokens.
        labels (array or list of arrays, *optional*):
            Needed for arrays; by default the column `labels` of a data set. -100 marks what has no label.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set.
        task (`str`, *optional*):
            One of [`Task`]; by default told from the labels: integers and names are classes, a table of 0 and 1
            several labels a row, other real numbers a regression, a list for each token of a row tokens.
        label_names (`Sequence[str]`, *optional*):
            Names of the classes by number; by default those of the data set's `ClassLabel`. Where the data set has
            other numbers for them, its labels are renumbered by name.

    Raises:
        ValueError: if a column is missing, the labels do not fit the features or the task, or no row has a label.
    """
    if task is not None and task not in get_args(Task):
        raise ValueError(
            f"A probe knows no task `{task}`: how labels are read depends on it. Pass one of "
            f"{', '.join(get_args(Task))}, or leave `task` out to have it told from the labels."
        )
    table, sizes, groups = read_features(features, column=column)
    given, own_names = (
        _labels_of(features, sizes is not None) if labels is None else (_array(labels, ragged=sizes is not None), ())
    )
    targets, names = _numbered(given, own_names, tuple(label_names or ()))
    if sizes is not None:
        task, groups = "token", np.repeat(np.arange(len(sizes)), sizes)
    kind = _task_of(targets, task)
    if len(targets) != len(table):
        raise ValueError(
            f"There are {len(table)} rows of features and {len(targets)} labels: they cannot belong together. Pass a "
            "label for each row (for tokens one for each token), -100 where it has none."
        )
    targets = targets.astype(np.int64 if kind in ("single_label", "token") else np.float64)
    if kind in ("multi_label", "regression"):
        targets = targets.reshape(len(targets), -1)
    rows = targets.reshape(len(targets), -1)
    labelled = (rows != UNLABELLED).all(1)
    if not labelled.any():
        raise ValueError(
            "No row of the data has a label: there is nothing to fit a head to or to score. Give the labelled rows, "
            "such as the source of a mixed data set."
        )
    if not labelled.all():
        table, targets = table[labelled], targets[labelled]
        groups = None if groups is None else groups[labelled]
    _check(targets, kind, names)
    return ProbeRows(table, targets, kind, names, groups)


def read_features(features: Any, *, column: str = "features") -> tuple[np.ndarray, np.ndarray | None, Any]:
    """The features as `(N, D)`; for tokens how many each example has; the example of each row where it has several."""
    if not hasattr(features, "column_names"):  # told by attribute: `datasets` is no dependency
        ragged = isinstance(features, (list, tuple)) and np.ndim(features[0]) == 2
        sizes = np.array([len(row) for row in features]) if ragged else None
        table = _array(features, ragged=ragged)
        if table.ndim == 3:
            sizes, table = np.full(len(table), table.shape[1]), table.reshape(-1, table.shape[2])
        if table.ndim != 2 or table.dtype.kind not in "fiu":
            raise ValueError(
                f"The features are an array of shape {table.shape} and type {table.dtype}: a probe wants one vector a "
                "row. Pass numbers of shape (N, D), for tokens (N, T, D) or a list of (T, D)."
            )
        return table, sizes, None
    if column not in features.column_names:
        raise ValueError(
            f"The data set has no column `{column}`, only {', '.join(features.column_names)}: there are no features. "
            'Pass what `extract_features` returned, and `column="block.3"` for the features of a block.'
        )
    inner = getattr(features.features[column], "feature", None)
    if hasattr(inner, "feature"):  # a list of vectors in each row
        lists = _column(features, column)
        sizes = lists.value_lengths().to_numpy(zero_copy_only=False)
        vectors = lists.flatten()
        return np.asarray(vectors.flatten()).reshape(len(vectors), -1), sizes, None
    from hf_transfer.features.cache import matrix

    several = "view" in features.column_names and "id" in features.column_names
    return matrix(features, column), None, np.asarray(_column(features, "id")) if several else None


def _column(dataset: Any, name: str) -> Any:
    """A column as one Arrow array, through the indices of `select` and `shuffle`."""
    chunks = dataset.select_columns([name]).with_format("arrow")[:][name]
    return chunks.combine_chunks() if chunks.num_chunks != 1 else chunks.chunk(0)


def _labels_of(dataset: Any, tokens: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    columns = getattr(dataset, "column_names", ())
    name = next((name for name in ("labels", "label") if name in columns), None)
    if name is None:
        among = f" among the columns {', '.join(columns)}" if columns else ""
        raise ValueError(
            f"There are no labels{among}: a probe is fitted to labelled rows and scored on them. "
            " Pass `labels=`, or extract the features of a data set with a column `label`."
        )
    feature, labels = dataset.features[name], _column(dataset, name)
    lists = getattr(feature, "feature", None)
    if labels.null_count:
        raise ValueError(
            f"{labels.null_count} rows have an empty `{name}`: whether they count is not known. Set them to "
            f"{UNLABELLED}, which leaves them out, or filter them."
        )
    names = tuple(getattr(feature if lists is None else lists, "names", None) or ())
    if lists is None:
        return labels.to_numpy(zero_copy_only=False), names
    flat, lengths = labels.flatten().to_numpy(zero_copy_only=False), labels.value_lengths().unique()
    if not tokens and len(lengths) > 1:
        raise ValueError(
            f"The lists of labels in `{name}` have from {min(lengths.to_pylist())} to {max(lengths.to_pylist())} "
            "entries, but there is one vector of features a row: these are labels of tokens. Extract the features of "
            'each token: `pooling="none"`, or the input of the head of a token classifier.'
        )
    # a list is one label for each token, or a row of values for the whole example
    return (flat if tokens else flat.reshape(len(labels), -1)), names


def _array(values: Any, *, ragged: bool) -> np.ndarray:
    if ragged and not isinstance(values, (np.ndarray, torch.Tensor)):
        return np.concatenate([_array(row, ragged=False) for row in values])
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    array = np.asarray(values)
    return array.reshape(-1) if ragged else array


def _numbered(labels: np.ndarray, own: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as numbers, in the order of the wanted names."""
    if labels.dtype.kind in "UOST":
        own = tuple(sorted({str(label) for label in labels.reshape(-1)}))
        labels = np.searchsorted(np.array(own), labels.astype(str))
    if not wanted or not own or own == wanted:
        return labels, wanted or own
    unknown = sorted(set(own) - set(wanted))
    if unknown:
        raise ValueError(
            f"The labels are named {', '.join(own[:8])}, the classes {', '.join(wanted[:8])}: "
            f"{', '.join(unknown[:3])} would be counted as another class. Give both the same `ClassLabel`."
        )
    number = np.array([wanted.index(name) for name in own])
    if labels.dtype.kind == "f" or labels.ndim == 2:
        raise ValueError(
            "The classes of a row of several labels are in another order than the probe's: a column would be another "
            "class. Reorder the lists of the data set to the order of the probe's names."
        )
    return np.where(labels == UNLABELLED, UNLABELLED, number[np.maximum(labels, 0)]), wanted


def _task_of(targets: np.ndarray, task: Any) -> Task:
    if task is None and targets.ndim == 2:
        return "multi_label" if np.isin(targets, (0, 1, UNLABELLED)).all() else "regression"
    if task is None:
        return "regression" if targets.dtype.kind == "f" else "single_label"
    whole = targets.dtype.kind in "iub"
    if (task in ("single_label", "token") and not (whole and targets.ndim == 1)) or (
        task == "multi_label" and not (targets.ndim == 2 and np.isin(targets, (0, 1, UNLABELLED)).all())
    ):
        raise ValueError(
            f"The labels of type {targets.dtype} and shape {targets.shape} are none of the task `{task}`: classes are "
            "integers, one a row or token; several labels a table of 0 and 1. Leave `task` out, or convert them."
        )
    return task


def _check(targets: np.ndarray, task: Task, names: tuple[str, ...]) -> None:
    if task == "regression" or task == "multi_label":
        if not np.isfinite(targets).all():
            raise ValueError(
                "The labels hold values that are not finite: no error can be computed from them. Set them to "
                f"{UNLABELLED}, which leaves the rows out."
            )
        if task == "multi_label" and names and len(names) != targets.shape[1]:
            raise ValueError(
                f"Rows have {targets.shape[1]} labels each, and there are {len(names)} names: they cannot be told "
                "apart. Pass `label_names=` with one name a label."
            )
        return
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or (names and high >= len(names)):
        raise ValueError(
            f"There are labels from {low} to {high}, and {len(names) or 'no'} class names: classes are numbered from "
            f"0. Renumber them ({UNLABELLED} where there is no label), or pass `label_names=` with all names."
        )
