from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Features, List, Value

from hf_transfer.data.label_checks import (
    check_kept_labels,
    check_no_second_label,
    check_same_features,
    check_same_kind,
    check_same_values,
    check_some_label,
)
from hf_transfer.data.labels import LabelKind


INTEGERS, REALS = LabelKind(Value("int64"), False), LabelKind(Value("float32"), False)
TOKENS = LabelKind(Value("int64"), True)


def classes(*names: str) -> LabelKind:
    return LabelKind(ClassLabel(names=list(names)), False)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [(INTEGERS, [0, 3, -100]), (REALS, [-99.9, 0.0]), (TOKENS, [[0, -100], []]), (INTEGERS, [-100])],
)
def test_good_labels_pass(kind, labels):
    check_kept_labels(kind, pa.chunked_array([labels]), where="here")


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        (INTEGERS, [0, None, None], "here has 2 rows whose label is null.*Filter"),
        (INTEGERS, [0, -1], "here holds the class number -1.*Replace it by -100"),
        (TOKENS, [[0], [-2, 1]], "here holds the class number -2"),
        (REALS, [0.0, -100.0], "here holds the real label -100.0.*Shift or scale"),
    ],
)
def test_bad_labels_do_not(kind, labels, message):
    with pytest.raises(ValueError, match=message):
        check_kept_labels(kind, pa.chunked_array([labels]), where="here")


def test_some_label():
    check_some_label(INTEGERS, np.array([-100, 0]), where="here")
    check_some_label(REALS, np.array([-5.0]), where="here")
    with pytest.raises(ValueError, match="here is a labelled domain without a single label.*labelled="):
        check_some_label(INTEGERS, np.array([-100, -100]), where="here")


def test_same_kind():
    check_same_kind(classes("a", "b"), classes("a", "b"), where="there")
    check_same_kind(classes("a", "b"), INTEGERS, where="there")
    with pytest.raises(ValueError, match="only the source has `b`, only there has `c`, `d`.*same `ClassLabel`"):
        check_same_kind(classes("a", "b"), classes("a", "c", "d"), where="there")
    with pytest.raises(ValueError, match="same in another order: `a`, `b` against `b`, `a`"):
        check_same_kind(classes("a", "b"), classes("b", "a"), where="there")
    for other in (REALS, TOKENS):
        with pytest.raises(ValueError, match="one model cannot learn both"):
            check_same_kind(INTEGERS, other, where="there")


def test_same_values():
    check_same_values(np.array([0, 5]), np.array([5, -100, -1]), INTEGERS, where="there")
    check_same_values(np.array([0.5]), np.array([99.0]), REALS, where="there")
    # names count, not the classes that happen to occur
    check_same_values(np.array([0]), np.array([1]), classes("a", "b"), where="there")
    with pytest.raises(ValueError, match="there holds `1`, `2`, the source only `0`, `5`. The head has no output"):
        check_same_values(np.array([0, 5]), np.array([1, 2]), INTEGERS, where="there")
    with pytest.raises(ValueError, match=r"there holds `100`, the source only `0`, .*`9` \.\.\.\. The head"):
        check_same_values(np.arange(50), np.array([100]), INTEGERS, where="there")


STRING, NUMBER = Value("string"), Value("int64")


def test_same_features_up_to_the_width():
    source = Features({"text": STRING, "ids": List(NUMBER)})
    assert check_same_features(source, source, where="there")
    wider = Features({"text": Value("large_string"), "ids": List(Value("int32"))})
    assert not check_same_features(wider, source, where="there")
    for other in ({"text": NUMBER, "ids": List(NUMBER)}, {"text": STRING, "ids": List(Value("float32"))}):
        with pytest.raises(ValueError, match="there has columns of another type than the source.*cast_column"):
            check_same_features(Features(other), source, where="there")


@pytest.mark.parametrize(
    "column",
    [{"labels": NUMBER}, {"label_text": STRING}, {"tags": STRING}, {"kind": ClassLabel(names=["a", "b"])}]
    + [{"pos": List(ClassLabel(names=["a", "b"]))}],
)
def test_second_labels_by_name_and_type(column):
    name = next(iter(column))
    with pytest.raises(ValueError, match=f"there is unlabelled, but its column `{name}` would still tell the labels"):
        check_no_second_label(Features({"text": STRING, **column}), None, "label", where="there")


def test_second_labels_by_their_values():
    labels = [0, 1, 2, 0, 1, 2]
    features = Features({"n": NUMBER, "text": STRING})

    def check(column) -> None:
        check_no_second_label(features, pa.table({"y": labels, "n": column}), "y", where="there")

    for copy in (labels, [7, 3, 5, 7, 3, 5]):
        with pytest.raises(ValueError, match="its column `n` would"):
            check(copy)
    for other in ([0, 1, 2, 0, 1, 1], [0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 1, 0]):
        check(other)
    # a running number in a table of as many rows as classes
    check_no_second_label(features, pa.table({"y": [0, 1], "n": [5, 6]}), "y", where="there")


def test_several_second_labels_are_all_named():
    features = Features({"labels": NUMBER, "label_text": STRING})
    with pytest.raises(ValueError, match=r"its columns `labels`, `label_text` .*remove_columns\(\['labels', 'label_t"):
        check_no_second_label(features, None, None, where="there")
