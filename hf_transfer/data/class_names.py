"""From whatever a label column holds to class numbers 0, 1, ... with names, alike in every split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, LargeList, List, Value
from transformers.utils import logging

from hf_transfer.data.columns import listed


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class NamedLabels:
    """
    Labels of all splits of one data set.

    Args:
        columns (`Mapping[str, pa.Array]`):
            Per split: class numbers, lists of class numbers (tokens), or real values (regression).
        names (`tuple[str, ...]`):
            Class names; none for regression.
        nested (`bool`):
            Whether a row holds a list of labels.
    """

    columns: Mapping[str, pa.Array]
    names: tuple[str, ...]
    nested: bool

    @property
    def feature(self) -> ClassLabel | Value | List:
        """The `datasets` feature of the label column."""
        inner = ClassLabel(names=list(self.names)) if self.names else Value("float32")
        return List(inner) if self.nested else inner


def named_labels(splits: Mapping[str, Dataset], column: str, *, train: str) -> NamedLabels:
    """
    Number the classes of a label column by the training split, and every other split alike.

    - `ClassLabel`: kept.
    - strings: sorted, numerically if all are numbers.
    - integers and booleans: sorted; the name of a class is its old value, so that MNIST has the names `0` to `9` and
      stars from 1 to 5 the names `1` to `5`.
    - floats: regression.

    A split other than the training split whose labels are all -1 (the custom for hidden test labels) is left out.

    Raises:
        ValueError: if labels are missing, the training split has one class only, a split has a class that the training
            split does not know, or the labels are of a type that no classifier takes.
    """
    feature = splits[train].features[column]
    nested = isinstance(feature, (List, LargeList))
    inner = feature.feature if nested else feature
    kinds = (ClassLabel, Value)
    if not isinstance(inner, kinds) or (nested and isinstance(inner, Value) and "float" in inner.dtype):
        raise ValueError(
            f"The label column `{column}` holds {feature}; classes as strings or numbers, one per row or one per "
            "token, or one real number per row are needed. Pass `label_column=` with such a column."
        )
    arrays = {name: _read(split, column) for name, split in splits.items()}
    hidden = [name for name, labels in arrays.items() if name != train and not nested and _all_hidden(labels)]
    if hidden:
        logger.warning(f"The labels of {listed(hidden)} are all -1, that is hidden; these splits are left out.")
    arrays = {name: labels for name, labels in arrays.items() if name not in hidden}
    for name, labels in arrays.items():
        if labels.null_count:
            raise ValueError(
                f"{labels.null_count} rows of split `{name}` have no label in column `{column}`; they can neither "
                f'train nor score. Drop them: `dataset.filter(lambda row: row["{column}"] is not None)`.'
            )
    if isinstance(inner, Value) and inner.dtype.startswith("float"):
        return NamedLabels({name: labels.cast(pa.float32()) for name, labels in arrays.items()}, (), False)
    values, names = _classes(inner, _flat(arrays[train], nested), column)
    numbered = {}
    for name, labels in arrays.items():
        other = splits[name].features[column]
        if other != feature and (isinstance(inner, ClassLabel) or "ClassLabel" in repr(other)):
            raise ValueError(
                f"Split `{name}` has other classes in `{column}` than split `{train}`: {other} and {feature}. The "
                "same number would mean different classes. Cast both to one `ClassLabel`."
            )
        numbered[name] = _numbered(labels, values, nested, split=name, train=train, column=column)
    used = np.unique(_flat(numbered[train], nested).to_numpy(zero_copy_only=False))
    if used.size < 2:
        only = f"only the class `{names[int(used[0])]}`" if used.size else "no label at all"
        raise ValueError(
            f"Split `{train}` has {only} in column `{column}`; there is nothing to tell apart. Check the "
            "file, or pass another `label_column`."
        )
    return NamedLabels(numbered, names, nested)


def _read(split: Dataset, column: str) -> pa.Array:
    labels = split.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    labels = pa.concat_arrays(labels.chunks) if isinstance(labels, pa.ChunkedArray) else labels
    return labels.cast(pa.int64()) if pa.types.is_boolean(labels.type) else labels


def _all_hidden(labels: pa.Array) -> bool:
    return pa.types.is_integer(labels.type) and len(labels) > 0 and labels.unique().to_pylist() == [-1]


def _flat(labels: pa.Array, nested: bool) -> pa.Array:
    return (labels.flatten() if nested else labels).drop_null()


def _classes(
    inner: ClassLabel | Value, labels: pa.Array, column: str
) -> tuple[list[int] | list[str], tuple[str, ...]]:
    """The values that stand for classes 0, 1, ..., and the names of the classes."""
    if isinstance(inner, ClassLabel):
        return list(range(len(inner.names))), tuple(inner.names)
    values = labels.unique().to_pylist()
    if inner.dtype == "bool":
        return [0, 1], ("False", "True")
    if all(isinstance(value, str) for value in values):
        values = sorted(values, key=lambda text: (0, int(text), text) if _is_number(text) else (1, 0, text))
    else:
        values = sorted(values)
    if len(values) > max(1000, len(labels) // 2):
        raise ValueError(
            f"Column `{column}` holds {len(values)} different values in {len(labels)} labels; that is an identifier "
            "or a text, not a class. Pass `label_column=` with the column of the classes."
        )
    return values, tuple(str(value) for value in values)


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdecimal()


def _numbered(
    labels: pa.Array, values: list[int] | list[str], nested: bool, *, split: str, train: str, column: str
) -> pa.Array:
    flat = labels.flatten() if nested else labels
    numbers = pc.call_function("index_in", [flat], pc.SetLookupOptions(value_set=pa.array(values, flat.type)))
    if numbers.null_count:
        unseen = sorted({str(value) for value in flat.filter(numbers.is_null()).to_pylist()})
        raise ValueError(
            f"Split `{split}` holds the labels {listed(unseen[:10])}, which split `{train}` has not; the head has no "
            f"output for them. Correct column `{column}`, or drop these rows."
        )
    numbers = numbers.cast(pa.int64())
    if not nested:
        return numbers
    lengths = np.asarray(pc.call_function("list_value_length", [labels]).to_numpy(zero_copy_only=False))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), numbers)


def with_labels(split: Dataset, labels: pa.Array, feature: ClassLabel | Value | List) -> Dataset:
    """The split with the numbered labels in a column `label`."""
    return split.add_column("label", labels, feature=feature)  # type: ignore[call-arg,arg-type]
