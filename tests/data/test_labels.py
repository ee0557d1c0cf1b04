from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Features, Image, LargeList, List, Value

from hf_transfer.data.labels import (
    LabelKind,
    flat_labels,
    label_kind,
    length_rule,
    list_lengths,
    masked_labels,
    masked_like,
)


CLASSES = ClassLabel(names=["a", "b"])
INTEGERS, REALS = LabelKind(Value("int64"), False), LabelKind(Value("float64"), False)
LISTS = LabelKind(Value("int64"), True)


@pytest.mark.parametrize(
    ("feature", "inner", "nested"),
    [
        (CLASSES, CLASSES, False),
        (List(CLASSES), CLASSES, True),
        (LargeList(CLASSES), CLASSES, True),
        (List(Value("float32"), length=3), Value("float32"), True),
        (Value("uint8"), Value("int64"), False),
        (Value("bool"), Value("int64"), False),
        (Value("float16"), Value("float32"), False),
        (Value("float64"), Value("float64"), False),
    ],
)
def test_kinds(feature, inner, nested):
    assert label_kind(feature, column="label", where="here") == LabelKind(inner, nested)


def test_what_a_kind_tells():
    kind = label_kind(List(CLASSES), column="label", where="here")
    assert kind.names == ["a", "b"] and not kind.is_float and kind.feature == List(CLASSES)
    assert kind.arrow_type == pa.list_(pa.int64())
    assert REALS.is_float and REALS.names is None and REALS.arrow_type == pa.float64()


@pytest.mark.parametrize("feature", [Value("string"), Value("large_string"), List(Value("string"))])
def test_strings_are_no_kind(feature):
    with pytest.raises(ValueError, match=r"labels of here \(column `y`\) are strings.*load_splits"):
        label_kind(feature, column="y", where="here")


@pytest.mark.parametrize(
    "feature", [Image(), List(List(Value("int64"))), Value("timestamp[s]"), {"a": Value("int64")}]
)
def test_other_things_are_no_kind(feature):
    with pytest.raises(ValueError, match="only classes, numbers and lists of these can be masked"):
        label_kind(feature, column="y", where="here")


def test_masks():
    assert masked_labels(INTEGERS, 2).to_pylist() == [-100, -100]
    assert masked_labels(INTEGERS, 2).type == pa.int64()
    assert masked_labels(REALS, 1).to_pylist() == [-100.0] and masked_labels(REALS, 1).type == pa.float64()
    assert masked_labels(LISTS, 3, [2, 0, 1]).to_pylist() == [[-100, -100], [], [-100]]
    assert masked_labels(INTEGERS, 0).to_pylist() == []


@pytest.mark.parametrize("lengths", [None, [1]])
def test_masks_of_lists_need_their_lengths(lengths):
    with pytest.raises(ValueError, match="lengths for 2 lists of labels.*Pass one length per row"):
        masked_labels(LISTS, 2, lengths)


def test_lengths_and_flat_labels():
    column = pa.chunked_array([[[1, 2], None], [[], [3]]], pa.list_(pa.int64()))
    assert list_lengths(column).tolist() == [2, 0, 0, 1]
    assert flat_labels(column).tolist() == [1, 2, 3]
    assert flat_labels(pa.chunked_array([[1, None], [2]])).tolist() == [1, 2]
    assert flat_labels(pa.array([0.5, 1.5])).tolist() == [0.5, 1.5]


def rule_of(**columns) -> str | int | None:
    table = pa.table(columns)
    return length_rule(Features.from_arrow_schema(table.schema), "y", table.column)


def test_lengths_follow_a_column_or_are_constant_or_unknown():
    assert rule_of(y=[[0], [0, 1]], pos=[[5, 5], [5]], tokens=[["a"], ["b", "c"]], text=["a", "b"]) == "tokens"
    assert rule_of(y=[[0, 1], [1, 1]], text=["a", "b"]) == 2
    assert rule_of(y=[[0], [1, 1]], text=["a", "b"]) is None
    # a constant width is a coincidence where every row has as many tokens
    assert rule_of(y=[[0, 1], [1, 1]], tokens=[["a", "b"], ["c", "d"]]) == "tokens"


def test_masks_like_a_table():
    table = pa.table({"y": [[0], [1, 1]], "tokens": [["a", "b"], ["c"]]})
    assert masked_like(LISTS, table, "y", None, where="here").to_pylist() == [[-100], [-100, -100]]
    assert masked_like(LISTS, table, None, "tokens", where="here").to_pylist() == [[-100, -100], [-100]]
    assert masked_like(LISTS, table, None, 3, where="here").to_pylist() == [[-100] * 3] * 2
    assert masked_like(INTEGERS, table, None, None, where="here").to_pylist() == [-100, -100]
    with pytest.raises(ValueError, match="here has no label column.*lists of -100"):
        masked_like(LISTS, table, None, None, where="here")


def test_masks_depend_on_nothing_but_the_lengths():
    one, other = (
        pa.table({"y": [list(row) for row in np.random.default_rng(s).integers(0, 9, (4, 3))]}) for s in (0, 1)
    )
    masks = [masked_like(LISTS, table, "y", None, where="here") for table in (one, other)]
    assert masks[0].equals(masks[1])
