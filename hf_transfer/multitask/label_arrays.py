"""The label column of one task as the canonical data set holds it: -100 where a row has no label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Features, LargeList, List, Value

from hf_transfer.data.columns import listed
from hf_transfer.data.labels import flat_labels, list_lengths
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.multitask.task import Task


__all__ = ["is_list", "label_array", "label_feature"]


def is_list(feature: Any) -> bool:
    """Whether a column holds a list per row."""
    return isinstance(feature, (List, LargeList)) or type(feature).__name__ == "Sequence"


def label_feature(task: Task) -> ClassLabel | Value | List:
    """The `datasets` feature of the column of a task."""
    if task.kind in ("regression", "multi_label"):
        return List(Value("float32")) if _is_nested(task) else Value("float32")
    inner = ClassLabel(names=list(task.label_names)) if task.label_names else Value("int64")
    return List(inner) if task.kind == "tokens" else inner


def label_array(
    task: Task,
    column: pa.ChunkedArray | None,
    *,
    rows: int,
    kept: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    where: str = "the data set",
) -> pa.Array:
    """
    The labels of a task for all rows of a table: classes as int64, values as float32, lists of either.

    Args:
        task (`Task`): what the labels are of.
        column (`pa.ChunkedArray`, *optional*): the labels; null and -100 in rows without one. None if no row has any.
        rows (`int`): number of rows.
        kept (`np.ndarray`, *optional*): `(rows,)` bool, the rows whose labels belong to the task; all by default.
        lengths (`np.ndarray`, *optional*): `(rows,)`, number of tokens of each row, where that is known.
        where (`str`, *optional*): what the rows belong to, for the errors.

    Raises:
        ValueError: if a label is no class of the task, no finite number, or neither 0 nor 1 for several labels; if a
            row has another number of labels than the task has outputs or the row has tokens.

    Example:
        >>> label_array(Task("topic", num_labels=3), pa.chunked_array([[2, None, 0]]), rows=3).to_pylist()
        [2, -100, 0]
    """
    dtype = np.float32 if task.kind in ("regression", "multi_label") else np.int64
    mine = np.ones(rows, dtype=bool) if kept is None else kept
    without = column is None or pa.types.is_null(column.type)
    labels: Any = pa.chunked_array([pa.nulls(rows, _arrow_type(task))]) if without else column
    mine = mine & np.asarray(labels.is_valid().to_numpy())
    given = labels.filter(pa.array(mine))
    if not _is_nested(task):
        values = np.full(rows, UNLABELLED, dtype)
        values[mine] = _checked(task, flat_labels(given), where).astype(dtype)
        return pa.array(values)
    if task.kind == "tokens":
        widths = np.zeros(rows, np.int64) if lengths is None else lengths
    else:
        widths = np.full(rows, task.num_labels)
    own = list_lengths(labels)
    if task.kind != "tokens" or lengths is not None:
        _check_widths(task, own[mine], widths[mine], where)
    widths = np.where(mine, own, widths)
    flat: Any = pc.call_function("list_flatten", [given])
    values = np.full(widths.sum(), UNLABELLED, dtype)
    values[np.repeat(mine, widths)] = _checked(task, _with_unlabelled(flat), where).astype(dtype)
    offsets = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)).cast(_arrow_type(task))


def _is_nested(task: Task) -> bool:
    return task.kind in ("tokens", "multi_label") or (task.kind == "regression" and task.num_labels > 1)


def _arrow_type(task: Task) -> pa.DataType:
    return Features({"label": label_feature(task)}).arrow_schema.field("label").type


def _with_unlabelled(flat: pa.ChunkedArray | pa.Array) -> np.ndarray:
    if pa.types.is_boolean(flat.type) or pa.types.is_integer(flat.type):
        flat = flat.cast(pa.int64())  # -100 is no value of an unsigned type
    numbers = pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)
    flat = pc.fill_null(flat, UNLABELLED) if numbers and flat.null_count else flat
    return np.asarray(flat.to_numpy(zero_copy_only=False)) if len(flat) else np.zeros(0)


def _check_widths(task: Task, own: np.ndarray, wanted: np.ndarray, where: str) -> None:
    wrong = np.flatnonzero(own != wanted)
    if wrong.size:
        what = "tokens" if task.kind == "tokens" else f"outputs of task `{task.name}`"
        raise ValueError(
            f"{where} has a row with {own[wrong[0]]} labels of task `{task.name}` and {wanted[wrong[0]]} {what}: it "
            "is unknown which label belongs to which. Give one label for each, -100 where there is none."
        )


def _checked(task: Task, values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"The labels of task `{task.name}` in {where} are {values.dtype.name}: a loss needs numbers. Call "
            "`dataset.class_encode_column(...)`, or load the data with `load_splits`."
        )
    values = values.astype(np.float64) if values.dtype.kind == "f" else values.astype(np.int64)
    if not np.isfinite(values).all():
        raise ValueError(
            f"The labels of task `{task.name}` in {where} hold values that are no finite numbers: the loss would be "
            "none either. Give -100 or null where a row has no label."
        )
    labelled = values[values != UNLABELLED]
    if task.kind == "regression":
        return values
    outputs = 2 if task.kind == "multi_label" else task.num_labels
    wrong = np.unique(labelled[(labelled < 0) | (labelled >= outputs) | (labelled != np.floor(labelled))])
    if wrong.size:
        means = "0 or 1 for each class" if task.kind == "multi_label" else f"a class of 0 to {outputs - 1}"
        raise ValueError(
            f"{where} holds the labels {listed(wrong.tolist()[:5])} of task `{task.name}`, each of which is to be "
            f"{means}: the head has no output for them. Correct them, give the task its number of labels, or put "
            f"{UNLABELLED} where a row has none."
        )
    return values
