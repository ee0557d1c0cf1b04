from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.data.subsets import random_rows, samples_per_class, stratified_split


LABELS = np.array([0] * 40 + [1] * 20 + [2] * 10)


def test_every_class_gives_its_share():
    train, held_out = stratified_split(LABELS, 0.1, seed=0)
    assert np.bincount(LABELS[held_out]).tolist() == [4, 2, 1]
    assert sorted([*train, *held_out]) == list(range(70))


def test_small_classes_are_in_both_parts():
    labels = np.array([0] * 50 + [1, 1])
    train, held_out = stratified_split(labels, 0.02, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [1, 1]
    assert np.bincount(labels[train]).tolist() == [49, 1]
    kept, _ = stratified_split(labels, 0.99, seed=0)
    assert set(labels[kept]) == {0, 1}


def test_split_follows_the_seed():
    splits = [stratified_split(LABELS, 0.5, seed=seed)[1].tolist() for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 10])
def test_fraction_must_be_a_share(fraction):
    with pytest.raises(ValueError, match="not between 0 and 1.*Pass for instance 0.1"):
        stratified_split(LABELS, fraction, seed=0)


def test_a_validation_that_loses_a_class_is_refused():
    message = "2 of 3 classes have one row only .`b`, `c`.*without a class says nothing of it.*eval_split"
    with pytest.raises(ValueError, match=message):
        stratified_split(np.array([0, 0, 1, 2]), 0.5, seed=0, names=["a", "b", "c"])


def test_k_rows_of_every_class():
    rows = samples_per_class(LABELS, 10, ["a", "b", "c"], seed=3)
    assert np.bincount(LABELS[rows]).tolist() == [10, 10, 10] and len(set(rows)) == 30
    assert rows.tolist() != sorted(rows.tolist())
    assert rows.tolist() == samples_per_class(LABELS, 10, ["a", "b", "c"], seed=3).tolist()
    assert rows.tolist() != samples_per_class(LABELS, 10, ["a", "b", "c"], seed=4).tolist()


def test_too_few_rows_name_the_class():
    with pytest.raises(ValueError, match="class `c` has 10 rows.*11-shot.*at most 10"):
        samples_per_class(LABELS, 11, ["a", "b", "c"], seed=0)
    with pytest.raises(ValueError, match="class `never` has 0 rows"):
        samples_per_class(LABELS, 1, ["a", "b", "c", "never"], seed=0)
    with pytest.raises(ValueError, match="samples_per_class=0 leaves no row.*Pass 1 or more"):
        samples_per_class(LABELS, 0, ["a", "b", "c"], seed=0)


def test_random_rows():
    rows = random_rows(100, 10, seed=0)
    assert len(set(rows)) == 10 and rows.max() < 100 and rows.tolist() != sorted(rows.tolist())
    assert sorted(random_rows(3, 10, seed=0)) == [0, 1, 2]
    with pytest.raises(ValueError, match="0 rows was asked for.*Pass 1 or more, or None"):
        random_rows(3, 0, seed=0)
