"""Baselines that look at labels alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hf_transfer.compare.strategies.baselines import Majority, class_log_frequencies


def setup(train: Any, *, names: tuple[str, ...] = ("a", "b", "c"), regression: bool = False, **splits: Any) -> Any:
    problem = SimpleNamespace(label_names=() if regression else names, regression=regression)
    found = {split: splits.get(split) for split in ("validation", "test")}
    return SimpleNamespace(problem=problem, train_labels=train, labels=found.__getitem__, **found)


def test_logits_are_log_shares_of_the_training_rows_for_every_row():
    fitted = Majority(name="majority").fit(
        setup(np.array([1, 1, 2, 0]), validation=np.array([0, 1]), test=np.zeros(3))
    )
    assert fitted.model is None and fitted.trained_parameters == fitted.steps == 0
    assert {split: logits.shape for split, logits in fitted.logits.items()} == {"validation": (2, 3), "test": (3, 3)}
    np.testing.assert_allclose(np.exp(fitted.logits["test"]), [[0.25, 0.5, 0.25]] * 3, rtol=1e-6)
    assert fitted.logits["test"].dtype == np.float32
    assert fitted.note == "always `b`"


def test_a_class_without_rows_has_a_finite_logit_and_of_equals_the_first_wins():
    logits = class_log_frequencies(np.array([2, 1, 1, 2]), 4)
    assert np.isfinite(logits).all()
    assert logits.argmax() == 1 and logits[0] == logits[3] < logits[1]
    assert np.isfinite(class_log_frequencies(np.array([], dtype=np.int64), 2)).all()


def test_a_split_that_is_not_there_has_no_logits():
    assert set(Majority(name="majority").fit(setup(np.array([0, 1]), test=np.zeros(1))).logits) == {"test"}


@pytest.mark.parametrize("ragged", [False, True])
def test_the_most_frequent_tag_for_every_token(ragged):
    rows = [[0, 2, 2], [2, -100, -100]]
    train = np.array([np.array([0, 2, 2]), np.array([2])], dtype=object) if ragged else np.array(rows)
    fitted = Majority(name="majority").fit(setup(train, validation=np.full((2, 5), -100)))
    logits = fitted.logits["validation"]
    assert logits.shape == (2, 5, 3) and (logits.argmax(-1) == 2).all()
    np.testing.assert_allclose(np.exp(logits[0, 0]), [0.25, 0.125, 0.75], rtol=1e-6)


def test_the_mean_of_a_regression():
    fitted = Majority(name="majority").fit(setup(np.array([1.0, 2.0, 6.0]), regression=True, test=np.zeros(4)))
    np.testing.assert_array_equal(fitted.logits["test"], np.full((4, 1), 3.0, np.float32))
    assert fitted.note == "always 3"
