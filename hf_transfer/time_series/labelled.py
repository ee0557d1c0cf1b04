"""Series with a class each: `read_labelled_series`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.data.columns import find_label_column, listed
from hf_transfer.time_series.embedded import EMBEDDED_CLASSES, embedded_classes


if TYPE_CHECKING:
    from datasets import Dataset

    from hf_transfer.data.class_names import NamedLabels

__all__ = ["LabelledSeries", "read_labelled_series"]

_VALUES = "values"


@dataclass(frozen=True)
class LabelledSeries:
    """
    Labelled series of one shape.

    Args:
        train (`datasets.Dataset`): columns `values`, a list of `T` lists of `C` float32 (NaN: missing), and `label`.
        eval (`datasets.Dataset`, *optional*): likewise.
        test (`datasets.Dataset`, *optional*): likewise.
        label_names (`tuple[str, ...]`): names of the classes by number.
        channels (`int`): `C`.
        length (`int`): `T`.

    Example:
        >>> data = read_labelled_series("embedded:series/classes", samples_per_class=2)
        >>> len(data.train), data.channels, data.length
        (8, 2, 64)
    """

    train: Dataset
    eval: Dataset | None
    test: Dataset | None
    label_names: tuple[str, ...]
    channels: int
    length: int


def read_labelled_series(
    name_or_path: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    *,
    config: str | None = None,
    values_column: str | None = None,
    label_column: str | None = None,
    max_samples: int | None = None,
    samples_per_class: int | None = None,
    validation_fraction: float | None = None,
    seed: int = 0,
) -> LabelledSeries:
    """
    Read series that have a class each and bring them to one length.

    A shorter series is padded on the left with missing values (NaN) to the length of the longest of all splits: the
    last rows are those that a model of series looks at last, and missing values are those it knows to leave out.

    Args:
        name_or_path (`str`, path, or mapping of split names to files):
            A Parquet or JSON file, files by split, a folder or Hub id that `datasets` reads, or
            `embedded:series/classes`. The splits are train; validation, valid, val, dev or eval; test.
        config (`str`, *optional*):
            Configuration of a Hub data set.
        values_column (`str`, *optional*):
            The series: a row holds a list of `T` lists of `C` numbers, or a list of `T` numbers for one channel. By
            default `values`, else the only column of lists of numbers.
        label_column (`str`, *optional*):
            The classes, by number or name. By default the only one of label, labels.
        max_samples (`int`, *optional*):
            Train on at most that many random rows.
        samples_per_class (`int`, *optional*):
            Train on that many random rows of every class, after validation rows are taken out.
        validation_fraction (`float`, *optional*):
            Where there is no validation split: the share of training rows to hold out as one, by class.
        seed (`int`, *optional*, defaults to 0):
            Of every random choice.

    Raises:
        FileNotFoundError: if there is no such file or data set.
        ValueError: if columns are not found, a series is empty, without any value, infinite, or of another number of
            channels than the others; if labels are missing or no classes; if a class has too few rows.

    Relations:
        [`hf_transfer.data.loading.load_splits`] for images, text and audio.

    Example:
        >>> data = read_labelled_series("embedded:series/classes")
        >>> np.shape(data.train[0]["values"]), data.label_names[0]
        ((64, 2), 'wave')
    """
    from hf_transfer.data.class_names import named_labels

    splits = _splits(name_or_path, config)
    train = splits["train"]
    label = find_label_column(train.column_names, label_column, where="Split `train`")
    column = _values_column(train, label, values_column)
    for name, split in splits.items():
        missing = [wanted for wanted in (label, column) if wanted not in split.column_names]
        if missing:
            raise ValueError(
                f"Split `{name}` lacks {listed(missing)}, which split `train` has: it could not be scored. Rename its "
                "columns, or leave the split out."
            )
    labels = named_labels(splits, label, train="train")
    if not labels.names or labels.nested:
        raise ValueError(
            f"Column `{label}` holds {train.features[label]}: classification needs one class a series. Pass "
            "`label_column` with a column of classes."
        )
    series = {name: _read_values(splits[name], column, name) for name in labels.columns}
    channels = series["train"][0].shape[1]
    for name, split in series.items():
        _check_series(split, channels, name)
    length = max(len(one) for split in series.values() for one in split)
    parts = {name: _built(split, labels, name, length) for name, split in series.items()}
    if validation_fraction is not None and "eval" not in parts:
        parts["train"], parts["eval"] = _held_out(parts["train"], validation_fraction, labels.names, seed)
    parts["train"] = _thinned(parts["train"], samples_per_class, max_samples, labels.names, seed)
    return LabelledSeries(parts["train"], parts.get("eval"), parts.get("test"), labels.names, channels, length)


def _splits(source: Any, config: str | None) -> dict[str, Dataset]:
    """By role: train, eval, test."""
    from hf_transfer.data.loading import VALIDATION_SPLITS
    from hf_transfer.data.reading import read_splits

    embedded = f"embedded:{EMBEDDED_CLASSES}"
    if str(source).startswith("embedded:") and source != embedded:
        raise ValueError(
            f"`{source}` holds no series with a class each: there is nothing to tell apart. Pass {embedded}."
        )
    if source == embedded:
        found = {str(name): split for name, split in embedded_classes().items()}
    else:
        found = read_splits(source, config)
    if "train" not in found:
        raise ValueError(
            f"There is no split `train` in `{source}`, only {listed(found)}: nothing says what to train on. Name the "
            "files by split, for instance {'train': 'a.parquet', 'test': 'b.parquet'}."
        )
    roles = {"train": "train", "test": "test"}
    roles["eval"] = next((name for name in VALIDATION_SPLITS if name in found), "")
    chosen = {role: found[name].with_format(None) for role, name in roles.items() if name in found}
    empty = [name for name, split in chosen.items() if not len(split)]
    if empty:
        raise ValueError(f"Split {listed(empty)} is empty: nothing can be learned or scored on it. Check the files.")
    return chosen


def _values_column(train: Dataset, label: str, given: str | None) -> str:
    found = [name for name, feature in train.features.items() if name != label and _depth(feature)]
    if given is not None:
        if given not in found:
            raise ValueError(
                f"Column `{given}` is not a column of series; those are {listed(found)}, of all "
                f"{listed(train.column_names)}. A row holds a list of T lists of C numbers. Pass "
                "`values_column` with such a column."
            )
        return given
    if _VALUES in found:
        return _VALUES
    if len(found) != 1:
        raise ValueError(
            f"There are {len(found)} columns of lists of numbers ({listed(found)}) among "
            f"{listed(train.column_names)}: which holds the series is not known. Pass `values_column`, whose rows are "
            "lists of T lists of C numbers."
        )
    return found[0]


def _depth(feature: Any) -> int:
    """2 for lists of lists of numbers, 1 for lists of numbers, else 0."""
    from datasets import Array2D, LargeList, List, Value

    if isinstance(feature, Array2D):
        return 2
    depth = 0
    while isinstance(feature, List | LargeList):
        feature, depth = feature.feature, depth + 1
    numbers = isinstance(feature, Value) and feature.dtype.startswith(("float", "int", "uint"))
    return depth if numbers and depth <= 2 else 0


def _read_values(split: Dataset, column: str, name: str) -> list[np.ndarray]:
    """Every series as `(T, C)` float32."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from hf_transfer.data.labels import list_lengths

    depth = _depth(split.features[column])
    if not depth:
        raise ValueError(
            f"Column `{column}` of split `{name}` holds {split.features[column]}, that of split `train` lists of "
            "numbers: it could not be scored. Write all splits alike."
        )
    table = split.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    outer: Any = pa.chunked_array([table.storage if isinstance(table, pa.ExtensionArray) else table])
    lengths = list_lengths(outer)
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        raise ValueError(
            f"Series {empty[0]} of split `{name}` has no rows: there is nothing to tell its class by. Drop it."
        )
    inner = pc.call_function("list_flatten", [outer])
    if depth == 1:
        channels = 1
    else:
        widths = list_lengths(inner)
        channels = int(widths[0])
        other = np.flatnonzero(widths != channels)
        if len(other) or not channels:
            at = int(np.searchsorted(np.cumsum(lengths), other[0], side="right")) if len(other) else 0
            raise ValueError(
                f"Series {at} of split `{name}` has a row of {widths[other[0]] if len(other) else 0} values, the "
                f"first row of the split {channels}: channels could not be told apart. A series is a list of T rows "
                "of C values; transpose those stored channel by channel, and write null for a value that is missing."
            )
        inner = pc.call_function("list_flatten", [inner])
    flat = inner.cast(pa.float32(), safe=False).to_numpy().reshape(-1, channels)
    return np.split(flat, np.cumsum(lengths)[:-1])


def _check_series(series: list[np.ndarray], channels: int, name: str) -> None:
    if series[0].shape[1] != channels:
        raise ValueError(
            f"The series of split `{name}` have {series[0].shape[1]} channels, those of split `train` {channels}: a "
            "model takes one number. Write the same channels in the same order to all splits."
        )
    for number, one in enumerate(series):
        if np.isinf(one).any() or np.isnan(one).all():
            what = "is infinite somewhere" if np.isinf(one).any() else "has no value at all"
            raise ValueError(
                f"Series {number} of split `{name}` {what}: any mean over it would be no number. Write null where a "
                "value is missing, and drop series without any."
            )


def _built(series: list[np.ndarray], labels: NamedLabels, name: str, length: int) -> Dataset:
    from datasets import Dataset, Features, Value
    from datasets import List as Listed

    padded = np.full((len(series), length, series[0].shape[1]), np.nan, dtype=np.float32)
    for number, one in enumerate(series):
        padded[number, length - len(one) :] = one
    features = Features({_VALUES: Listed(Listed(Value("float32"))), "label": labels.feature})
    return Dataset.from_dict({_VALUES: padded, "label": labels.columns[name].to_numpy()}, features=features)


def _numbers(split: Dataset) -> np.ndarray:
    return split.select_columns(["label"]).with_format("numpy")[:]["label"]


def _held_out(train: Dataset, fraction: float, names: tuple[str, ...], seed: int) -> tuple[Dataset, Dataset]:
    from hf_transfer.data.subsets import stratified_split

    kept, held_out = stratified_split(_numbers(train), fraction, seed=seed, names=names)
    return train.select(kept), train.select(held_out)


def _thinned(train: Dataset, per_class: int | None, at_most: int | None, names: tuple[str, ...], seed: int) -> Dataset:
    from hf_transfer.data.subsets import random_rows, samples_per_class

    if per_class is not None:
        train = train.select(samples_per_class(_numbers(train), per_class, names, seed=seed))
    if at_most is not None:
        train = train.select(random_rows(len(train), at_most, seed=seed))
    return train
