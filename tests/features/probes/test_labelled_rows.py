"""Rows, labels, names and tasks, from data sets and from arrays."""

from __future__ import annotations

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch

from hf_transfer.features.probes.labelled_rows import read_features, read_rows


X = np.arange(12, dtype=np.float32).reshape(4, 3)


def table(labels=None, feature=None, **columns):
    """A feature data set as `extract_features` returns it."""
    features = {"features": datasets.List(datasets.Value("float32"), length=3)}
    content = {"features": X.tolist(), **columns}
    features.update({name: datasets.Value("int64") for name in columns})
    if labels is not None:
        features["labels"], content["labels"] = feature, labels
    # not by `from_dict`, which takes no -100 for a class
    return datasets.Dataset(pa.table(content, schema=datasets.Features(features).arrow_schema))


def tokens(labels=((0, -100, 1), (2, 0))):
    """Two examples of three and two tokens."""
    vectors = [X[:3].tolist(), X[2:].tolist()]
    features = {
        "features": datasets.List(datasets.List(datasets.Value("float32"), length=3)),
        "labels": datasets.List(datasets.ClassLabel(names=["O", "B-X", "I-X"])),
    }
    content = {"features": vectors, "labels": [list(row) for row in labels]}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def test_classes_with_names():
    rows = read_rows(table([1, 0, -100, 1], datasets.ClassLabel(names=["no", "yes"])))
    assert rows.task == "single_label" and rows.label_names == ("no", "yes") and rows.groups is None
    assert np.array_equal(rows.features, X[[0, 1, 3]]) and rows.targets.tolist() == [1, 0, 1]


def test_selected_and_shuffled_rows():
    dataset = table([0, 1, 2, 3], datasets.Value("int64")).select([2, 0])
    rows = read_rows(dataset)
    assert np.array_equal(rows.features, X[[2, 0]]) and rows.targets.tolist() == [2, 0] and rows.label_names == ()


def test_other_numbers_for_the_same_names():
    dataset = table([1, 0, -100, 1], datasets.ClassLabel(names=["yes", "no"]))
    rows = read_rows(dataset, label_names=["no", "maybe", "yes"])
    assert rows.targets.tolist() == [0, 2, 0] and rows.label_names == ("no", "maybe", "yes")


def test_names_that_are_unknown():
    dataset = table([1, 0, 0, 1], datasets.ClassLabel(names=["yes", "perhaps"]))
    with pytest.raises(ValueError, match="named yes, perhaps, the classes no, yes: perhaps would.*same `ClassLabel`"):
        read_rows(dataset, label_names=["no", "yes"])


def test_names_instead_of_numbers():
    rows = read_rows(X, ["b", "a", "b", "c"])
    assert rows.label_names == ("a", "b", "c") and rows.targets.tolist() == [1, 0, 1, 2]
    assert read_rows(X, ["b", "a", "b", "c"], label_names=["c", "b", "a"]).targets.tolist() == [1, 2, 1, 0]
    text = table(["x", "y", "x", "y"], datasets.Value("string"))
    assert read_rows(text).targets.tolist() == [0, 1, 0, 1]


def test_tokens():
    for rows in (
        read_rows(tokens()),
        read_rows([X[:3], X[2:]], [[0, -100, 1], [2, 0]], label_names=["O", "B-X", "I-X"]),
    ):
        assert rows.task == "token" and rows.label_names == ("O", "B-X", "I-X")
        assert np.array_equal(rows.features, X[[0, 2, 2, 3]]) and rows.targets.tolist() == [0, 1, 2, 0]
        assert rows.groups.tolist() == [0, 0, 1, 1]


def test_tokens_of_selected_examples():
    rows = read_rows(tokens().select([1]))
    assert np.array_equal(rows.features, X[2:]) and rows.targets.tolist() == [2, 0]


def test_padded_tokens():
    rows = read_rows(torch.from_numpy(X).reshape(2, 2, 3), torch.tensor([[1, 0], [1, -100]]))
    assert rows.task == "token" and np.array_equal(rows.features, X[:3]) and rows.groups.tolist() == [0, 0, 1]


def test_several_labels_a_row():
    labels = [[0.0, 1.0], [1.0, 1.0], [-100.0, 0.0], [0.0, 0.0]]
    rows = read_rows(table(labels, datasets.List(datasets.Value("float32"))), label_names=["a", "b"])
    assert rows.task == "multi_label" and rows.label_names == ("a", "b")
    assert np.array_equal(rows.features, X[[0, 1, 3]]) and rows.targets.tolist() == [[0, 1], [1, 1], [0, 0]]


def test_real_values():
    rows = read_rows(table([0.5, 1.5, -100.0, 2.0], datasets.Value("float32")))
    assert rows.task == "regression" and rows.targets.tolist() == [[0.5], [1.5], [2.0]]
    assert read_rows(X, np.arange(8.0).reshape(4, 2)).task == "regression"
    assert read_rows(X, [1, 2, 3, 4], task="regression").targets.shape == (4, 1)
    assert read_rows(X, [[0, 1], [1, 1], [1, 0], [0, 0]], task="regression").task == "regression"


def test_booleans_are_classes():
    assert read_rows(table([True, False, True, False], datasets.Value("bool"))).targets.tolist() == [1, 0, 1, 0]
    assert read_rows(X, np.array([True, False, True, False])).task == "single_label"


def test_views_of_an_example_are_a_group():
    dataset = table([0, 0, 1, 1], datasets.Value("int64"), id=[4, 4, 7, 7], view=[0, 1, 0, 1])
    assert read_rows(dataset).groups.tolist() == [4, 4, 7, 7]
    alone = table([0, 0, 1, 1], datasets.Value("int64"), id=[0, 1, 2, 3])
    assert read_rows(alone).groups is None


def test_half_precision_and_tensors():
    assert read_features(torch.ones(2, 3, dtype=torch.bfloat16))[0].dtype == np.float32
    assert read_features(torch.ones(2, 3, dtype=torch.float16, requires_grad=True))[0].dtype == np.float16


def test_another_column():
    dataset = table([0, 1, 0, 1], datasets.Value("int64")).rename_column("features", "block.2")
    assert np.array_equal(read_rows(dataset, column="block.2").features, X)
    with pytest.raises(ValueError, match="no column `features`, only block.2, labels.*column="):
        read_rows(dataset)


REFUSED = {
    "no labels": ((X,), {}, "no labels: a probe is fitted to labelled rows.*Pass `labels=`"),
    "unlabelled": ((X, [-100] * 4), {}, "No row of the data has a label.*Give the labelled rows"),
    "too few labels": ((X, [0, 1]), {}, "4 rows of features and 2 labels.*cannot belong together.*-100"),
    "one vector": ((X[0], [0]), {}, r"array of shape \(3,\).*one vector a row.*\(N, D\)"),
    "no task": ((X, [0, 1, 0, 1]), {"task": "ranking"}, "no task `ranking`.*single_label, multi_label"),
    "values as classes": ((X, [0.5, 1, 0, 1]), {"task": "single_label"}, "none of the task `single_label`.*integers"),
    "classes as several": ((X, [0, 1, 2, 1]), {"task": "multi_label"}, "none of the task `multi_label`.*0 and 1"),
    "a negative class": ((X, [0, -1, 1, 1]), {}, "labels from -1 to 1.*numbered from 0.*Renumber"),
    "a class too many": ((X, [0, 1, 2, 1]), {"label_names": ["a", "b"]}, "labels from 0 to 2, and 2 class names"),
    "not finite": ((X, [0.0, np.nan, 1.0, 2.0]), {}, "labels hold values that are not finite.*Set them to -100"),
    "names of labels": ((X, np.eye(4, 2)), {"label_names": ["a"]}, "2 labels each, and there are 1 names.*one name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    args, options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        read_rows(*args, **options)


def test_a_data_set_without_labels():
    with pytest.raises(ValueError, match="no labels among the columns features"):
        read_rows(table())


def test_empty_labels():
    with pytest.raises(ValueError, match="1 rows have an empty `labels`.*Set them to -100"):
        read_rows(table([0, None, 1, 1], datasets.Value("int64")))


def test_labels_of_tokens_for_features_of_examples():
    with pytest.raises(ValueError, match='from 1 to 2 entries.*labels of tokens.*pooling="none"'):
        read_rows(table([[0], [1], [0, 1], [1]], datasets.List(datasets.Value("int64"))))


def test_several_labels_in_another_order():
    labels = datasets.List(datasets.ClassLabel(names=["a", "b"]))
    with pytest.raises(ValueError, match="in another order than the probe's.*Reorder the lists"):
        read_rows(table([[0, 1]] * 4, labels), label_names=["b", "a"])
