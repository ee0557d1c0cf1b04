"""Base and novel classes: which rows, which numbers, no row on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_transfer.data.loading import TransferData
from hf_transfer.few_shot.class_split import all_rows, check_single_label, split_classes, with_classes


def data(classes: int = 6, rows: int = 4) -> TransferData:
    names = [f"class {number}" for number in range(classes)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})

    def split(prefix: str) -> Dataset:
        labels = [row % classes for row in range(rows * classes)]
        texts = [f"{prefix} {number} of {names[label]}" for number, label in enumerate(labels)]
        return Dataset.from_dict({"text": texts, "label": labels}, features=features)

    return TransferData(split("train"), None, split("test"), "text-classification", ("text",), tuple(names))


def named(split: Any) -> set[tuple[str, str]]:
    names = split.features["label"].names
    return {(row["text"], names[row["label"]]) for row in split}


def test_every_class_is_on_one_side_and_keeps_its_rows():
    whole = data()
    base, novel = split_classes(whole, 4, seed=3)
    assert len(base.label_names) == 4 and len(novel.label_names) == 2
    assert set(base.label_names) | set(novel.label_names) == set(whole.label_names)
    assert novel.test is not None and whole.test is not None
    assert named(base.train) | named(novel.train) == named(whole.train)
    assert not named(base.train) & named(novel.train)
    # the text tells the class, and the new number must be that of its name
    assert all(text.endswith(name) for split in (base.train, novel.train, novel.test) for text, name in named(split))
    assert np.unique(novel.train["label"]).tolist() == [0, 1] and novel.num_labels == 2


def test_the_seed_draws_the_classes():
    sides = {split_classes(data(), 3, seed=seed)[0].label_names for seed in range(8)}
    assert len(sides) > 2
    assert split_classes(data(), 3, seed=1)[0].label_names == split_classes(data(), 3, seed=1)[0].label_names


def test_rows_without_a_label_belong_to_nobody():
    whole = data(3)
    labels = [-1, *whole.train["label"][1:]]
    hidden = whole.train.remove_columns("label").add_column("label", labels, feature=whole.train.features["label"])  # type: ignore[call-arg]
    chosen = with_classes(TransferData(hidden, None, None, whole.task, whole.input_columns, whole.label_names), [2, 0])
    assert chosen.label_names == ("class 2", "class 0")
    assert len(chosen.train) == 7 and all(text.endswith(name) for text, name in named(chosen.train))


def test_all_splits_are_rows_of_episodes():
    assert len(all_rows(data(3, 4))) == 24


@pytest.mark.parametrize("count", [1, 5, 6])
def test_two_classes_are_needed_on_either_side(count):
    with pytest.raises(ValueError, match=f"`--base_classes {count}` of 6 classes.*two or more.*from 2 to 4"):
        split_classes(data(), count, seed=0)


def test_rows_must_be_of_one_class():
    whole = data()
    tokens = TransferData(whole.train, None, None, "token-classification", ("tokens",), whole.label_names)
    with pytest.raises(ValueError, match="`mine` is for token-classification.*each of one class.*Give images"):
        check_single_label(tokens, "mine")
    check_single_label(whole, "mine")
