from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from hf_transfer.selection.target import NEVER, read_target
from tests.selection.planted import sentences, shades


def test_rows_folds_and_parts_are_the_same_for_a_seed():
    first, second, other = (read_target(shades(), max_rows=30, draws=3, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.folds, second.folds) and first.rows["label"][:] == second.rows["label"][:]
    assert all(np.array_equal(a, b) for a, b in zip(first.draws, second.draws, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first.draws, other.draws, strict=True))
    assert len(first) == 30 and first.available == 60 and first.kind == "single_label"


def test_folds_hold_every_row_out_once_and_classes_in_equal_shares():
    target = read_target(shades(60), folds=5)
    labels = np.array(target.rows["label"][:])
    assert all((np.bincount(labels[target.folds == fold], minlength=3) == 4).all() for fold in range(5))


def test_every_class_stays_in_a_small_part():
    labels = [0] * 90 + [1] * 4 + [2]
    data = Dataset.from_dict({"text": [f"row {i}" for i in range(95)], "label": labels})
    target = read_target(data, max_rows=10, draws=4, draw_rows=10)
    kept = np.array(target.rows["label"][:])
    assert (np.bincount(kept, minlength=3)[1:] >= [2, 1]).all() and len(kept) == 10
    assert all(set(kept[draw]) == {0, 1, 2} for draw in target.draws)
    assert (target.folds[kept == 2] == NEVER).all()  # the only row of its class


def test_tokens_are_drawn_by_sentence_up_to_a_number_of_words():
    target = read_target(sentences(40), max_rows=30)
    words = sum(map(len, target.rows["tokens"][:]))
    assert target.kind == "token" and words <= 30 < words + 5
    assert np.unique(target.folds).tolist() == [0, 1, 2, 3, 4]


def test_real_values_are_a_regression():
    target = read_target(Dataset.from_dict({"text": list("abcdefgh"), "label": [0.5 * i for i in range(8)]}))
    assert target.kind == "regression" and target.metric == "R2"


def test_unlabelled_rows_are_left_out():
    data = Dataset.from_dict({"text": list("abcdefgh"), "label": [0, 1, 0, 1, 0, 1, 0, 1]})
    target = read_target(data.map(lambda row: {"label": row["label"]}))
    assert len(target) == 8


@pytest.mark.parametrize(
    ("data", "options", "error", "match"),
    [
        ([1, 2], {}, TypeError, "The data set is a list.*Pass a `datasets.Dataset`"),
        (Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}), {}, ValueError, "fewer than two have two rows"),
        (
            Dataset.from_dict({"text": list("abcdef"), "label": [0, 1] * 3}),
            {"folds": 1},
            ValueError,
            "holds nothing out",
        ),
        (Dataset.from_dict({"text": list("abcdef"), "label": [1.5] * 6}), {}, ValueError, "All 6 labels are 1.5"),
        (Dataset.from_dict({"text": list("ab"), "label": [1.5, 2.0]}), {}, ValueError, "There are 2 labelled rows"),
    ],
)
def test_data_that_nothing_can_be_told_from_is_refused(data, options, error, match):
    with pytest.raises(error, match=match):
        read_target(data, **options)
