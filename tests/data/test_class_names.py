from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_transfer.data.class_names import named_labels, with_labels


def column(values, feature=None) -> Dataset:
    return Dataset.from_dict({"y": values}, None if feature is None else Features({"y": feature}))


def named(train, test=None, feature=None):
    splits = {"train": column(train, feature)}
    if test is not None:
        splits["test"] = column(test, feature)
    return named_labels(splits, "y", train="train")


def test_strings_are_sorted_and_numbered_alike_in_every_split():
    labels = named(["dog", "cat", "dog"], ["cat", "cat", "dog"])
    assert labels.names == ("cat", "dog")
    assert labels.columns["train"].to_pylist() == [1, 0, 1] and labels.columns["test"].to_pylist() == [0, 0, 1]
    assert labels.feature == ClassLabel(names=["cat", "dog"])


def test_strings_of_numbers_are_sorted_as_numbers():
    assert named(["10", "9", "-1", "x"]).names == ("-1", "9", "10", "x")


def test_integers_are_named_by_their_values():
    assert named([2, 0, 1]).names == ("0", "1", "2")
    stars = named([5, 1, 3], [3])
    assert stars.names == ("1", "3", "5") and stars.columns["train"].to_pylist() == [2, 0, 1]
    assert stars.columns["test"].to_pylist() == [1]
    assert named([1, -1]).names == ("-1", "1")


def test_booleans():
    labels = named([True, False])
    assert labels.names == ("False", "True") and labels.columns["train"].to_pylist() == [1, 0]


def test_class_labels_are_kept_even_where_unused():
    feature = ClassLabel(names=["b", "a", "never"])
    labels = named([0, 1], [1], feature)
    assert labels.names == ("b", "a", "never") and labels.feature == feature
    assert labels.columns["train"].to_pylist() == [0, 1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_are_regression(dtype):
    labels = named([0.5, 1.0], feature=Value(dtype))
    assert labels.names == () and labels.feature == Value("float32")
    assert labels.columns["train"].to_pylist() == [0.5, 1.0]


@pytest.mark.parametrize("feature", [Value("string"), ClassLabel(names=["B", "O"])])
def test_tokens_keep_their_lists(feature):
    labels = named([["O"], [], ["B", "O"]], [["O", "O"]], List(feature))
    assert labels.nested and labels.names == ("B", "O")
    assert labels.columns["train"].to_pylist() == [[1], [], [0, 1]]
    assert labels.feature == List(ClassLabel(names=["B", "O"]))


def test_slices_of_lists_are_read_right():
    tags = column([["O"], ["B", "O"], ["O", "B"]]).select(range(1, 3))
    assert named_labels({"train": tags}, "y", train="train").columns["train"].to_pylist() == [[0, 1], [1, 0]]


def test_unseen_labels_are_named():
    with pytest.raises(ValueError, match="Split `test` holds the labels `bird`, which split `train` has not"):
        named(["dog", "cat"], ["dog", "bird"])
    with pytest.raises(ValueError, match="holds the labels `7`"):
        named([0, 1], [7])
    with pytest.raises(ValueError, match="holds the labels `I`"):
        named([["O", "B"]], [["I"]])


def test_other_class_labels_are_refused():
    splits = {"train": column([0, 1], ClassLabel(names=["a", "b"])), "test": column([0], ClassLabel(names=["b", "a"]))}
    with pytest.raises(ValueError, match="Split `test` has other classes.*Cast both"):
        named_labels(splits, "y", train="train")


def test_hidden_labels_are_left_out(caplog):
    labels = named([0, 1], [-1, -1], ClassLabel(names=["a", "b"]))
    assert list(labels.columns) == ["train"]


def test_missing_labels_and_single_classes_are_refused():
    with pytest.raises(ValueError, match="1 rows of split `train` have no label in column `y`.*Drop them"):
        named(["a", None, "b"])
    with pytest.raises(ValueError, match="only the class `a` in column `y`; there is nothing to tell apart"):
        named(["a", "a"])
    with pytest.raises(ValueError, match="only the class `b`"):
        named([1, 1], feature=ClassLabel(names=["a", "b"]))


def test_what_is_no_class_is_refused():
    with pytest.raises(ValueError, match="1500 different values in 1500 labels; that is an identifier"):
        named([f"text {row}" for row in range(1500)])
    with pytest.raises(ValueError, match=r"holds List\(Value\('float32'\).*label_column="):
        named([[0.5]], feature=List(Value("float32")))
    with pytest.raises(ValueError, match="label_column="):
        named([{"a": 1}])


def test_with_labels_adds_the_column():
    labels = named(["dog", "cat"])
    added = with_labels(Dataset.from_dict({"text": ["x", "z"]}), labels.columns["train"], labels.feature)
    assert added.features["label"].names == ["cat", "dog"] and added["label"][:] == [1, 0]
