"""The class of every row from whatever holds it, without touching inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from torch.utils.data import Subset

from hf_transfer.few_shot.labels import class_labels


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor], ids=["list", "tuple", "numpy", "torch"])
def test_integers_stay_as_they_are(kind):
    numbers, names = class_labels(kind([3, 0, -100, 3]))
    assert numbers.dtype == np.int64 and numbers.tolist() == [3, 0, -100, 3] and names == ()


def test_names_are_numbered_in_alphabetical_order():
    numbers, names = class_labels(["pear", "apple", "pear"])
    assert numbers.tolist() == [1, 0, 1] and names == ("apple", "pear")


@pytest.mark.parametrize("column", ["label", "labels"])
def test_a_data_set_gives_numbers_and_names(column):
    features = Features({"text": Value("string"), column: ClassLabel(names=["no", "yes"])})
    data = Dataset.from_dict({"text": ["a", "b", "c"], column: [1, 0, 1]}, features=features)
    numbers, names = class_labels(data)
    assert numbers.tolist() == [1, 0, 1] and names == ("no", "yes")
    assert class_labels(Subset(data, [2, 1]))[0].tolist() == [1, 0]
    assert class_labels(data.select([1]))[0].tolist() == [0]


def test_labels_come_before_label():
    data = Dataset.from_dict({"label": ["x", "y"], "labels": [5, 6]})
    assert class_labels(data)[0].tolist() == [5, 6]


def test_strings_of_a_data_set_are_numbered():
    assert class_labels(Dataset.from_dict({"label": ["b", "a"]})) == (pytest.approx([1, 0]), ("a", "b"))


def test_inputs_are_not_decoded():
    def broken(rows):
        raise AssertionError("an input was read")

    data = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    data.set_transform(broken)
    assert class_labels(data)[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    "labels",
    [[0.5, 1.0], [[0, 1], [1, 0]], [], [[0], [1, 2]], [0, None], torch.zeros(2, 2)],
    ids=["floats", "lists", "none", "ragged", "missing", "table"],
)
def test_labels_that_are_not_one_class_a_row_are_refused(labels):
    with pytest.raises(ValueError, match="an episode holds rows of single classes. Pass one integer or name a row"):
        class_labels(labels)


def test_a_data_set_without_labels_is_refused():
    with pytest.raises(ValueError, match="columns text, but neither `labels` nor `label`.*Rename the column"):
        class_labels(Dataset.from_dict({"text": ["a"]}))


def test_a_stream_is_refused():
    stream = Dataset.from_dict({"text": ["a"], "label": [0]}).to_iterable_dataset()
    with pytest.raises(ValueError, match="The data set is a stream.*Load it without `streaming=True`"):
        class_labels(stream)
