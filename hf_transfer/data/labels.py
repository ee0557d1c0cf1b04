"""Kinds of labels (class, value, list of either) and their masked form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Features, LargeList, List, Value

from hf_transfer.data.columns import IGNORE_INDEX


@dataclass(frozen=True)
class LabelKind:
    """
    What the label column of a mixed dataset holds.

    Args:
        inner (`ClassLabel` or `Value`):
            Feature of one label; int64 for classes, the source's own float type for regression and multi-label.
        nested (`bool`):
            Whether a row holds a list of labels (one per token, or one per class) instead of one.
    """

    inner: ClassLabel | Value
    nested: bool

    @property
    def feature(self) -> ClassLabel | Value | List:
        """The `datasets` feature of the column."""
        return List(self.inner) if self.nested else self.inner

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type of the column."""
        return Features({"label": self.feature}).arrow_schema.field("label").type

    @property
    def is_float(self) -> bool:
        """Whether the labels are real numbers."""
        return self.inner.dtype.startswith("float")

    @property
    def names(self) -> list[str] | None:
        """The class names, if the labels carry any."""
        return list(self.inner.names) if isinstance(self.inner, ClassLabel) else None


def label_kind(feature: Any, *, column: str, where: str) -> LabelKind:
    """
    The kind of a label column, read off its `datasets` feature.

    Raises:
        ValueError: if the labels are strings, or neither numbers nor lists of numbers.
    """
    nested = isinstance(feature, (List, LargeList))
    inner = feature.feature if nested else feature
    if isinstance(inner, ClassLabel):
        return LabelKind(inner, nested)
    if isinstance(inner, Value) and inner.dtype in ("string", "large_string", "string_view"):
        raise ValueError(
            f"The labels of {where} (column `{column}`) are strings; a loss needs class numbers. "
            f'Call `dataset.class_encode_column("{column}")`, or load the data with `load_splits`.'
        )
    if isinstance(inner, Value) and inner.dtype.startswith("float"):
        # float16 is no label type any loss of transformers takes
        return LabelKind(Value("float32") if inner.dtype == "float16" else inner, nested)
    if isinstance(inner, Value) and (inner.dtype == "bool" or "int" in inner.dtype):
        return LabelKind(Value("int64"), nested)
    raise ValueError(
        f"The labels of {where} (column `{column}`) are {feature}; only classes, numbers and lists of these can be "
        f"masked with {IGNORE_INDEX}. Pass `label_column=` with such a column."
    )


def masked_labels(kind: LabelKind, rows: int, lengths: Sequence[int] | np.ndarray | None = None) -> pa.Array:
    """
    A label column without any label: `rows` times -100, in lists of the given lengths if `kind` is nested.

    Example:
        >>> masked_labels(LabelKind(Value("int64"), True), 2, [1, 2]).to_pylist()
        [[-100], [-100, -100]]
    """
    dtype = np.dtype(kind.inner.dtype)
    if not kind.nested:
        return pa.array(np.full(rows, IGNORE_INDEX, dtype))
    if lengths is None or len(lengths) != rows:
        raise ValueError(
            f"Got {None if lengths is None else len(lengths)} lengths for {rows} lists of labels; each masked list "
            "needs its own length. Pass one length per row."
        )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.full(offsets[-1], IGNORE_INDEX, dtype)))


def list_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Lengths of the lists of a column; 0 where it is null."""
    return np.asarray(pc.fill_null(pc.call_function("list_value_length", [column]), 0).to_numpy(), dtype=np.int64)


def length_rule(features: Features, label_column: str, read: Callable[[str], pa.ChunkedArray]) -> str | int | None:
    """
    Where the lengths of label lists come from: the input column of equal lengths (one label per token), else their
    constant width (one per class), else nowhere.

    Args:
        features (`datasets.Features`):
            Features of the source.
        label_column (`str`):
            Its label column, of lists.
        read (`Callable`):
            Reads a column of the source.
    """
    lengths = list_lengths(read(label_column))
    constant = int(lengths[0]) if np.unique(lengths).size == 1 else None
    for name, feature in features.items():
        if name != label_column and isinstance(feature, (List, LargeList)):
            if np.array_equal(list_lengths(read(name)), lengths):
                return name
    return constant


def masked_like(
    kind: LabelKind, table: pa.Table, label_column: str | None, rule: str | int | None, *, where: str
) -> pa.Array:
    """
    The masked labels of a table: lists as long as its own labels, else after the [`length_rule`] of the source.

    Raises:
        ValueError: if the labels are lists and nothing tells their lengths.
    """
    if not kind.nested:
        return masked_labels(kind, table.num_rows)
    if label_column is not None:
        return masked_labels(kind, table.num_rows, list_lengths(table[label_column]))
    if isinstance(rule, str):
        return masked_labels(kind, table.num_rows, list_lengths(table[rule]))
    if rule is not None:
        return masked_labels(kind, table.num_rows, [rule] * table.num_rows)
    raise ValueError(
        f"{where} has no label column and the source's labels are lists of unequal lengths that match no other "
        "column; the lengths of the masked lists are unknown. Add a label column filled with lists of -100."
    )


def flat_labels(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """All labels of a column as one array, nulls left out."""
    nested = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    nested = nested or pa.types.is_fixed_size_list(column.type)
    flat = (pc.call_function("list_flatten", [column]) if nested else column).drop_null()
    return np.asarray(flat.to_numpy(zero_copy_only=False) if isinstance(flat, pa.Array) else flat.to_numpy())
