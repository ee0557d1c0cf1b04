"""Scores under the names and with the numbers of the metrics a Trainer reports."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score
from transformers.trainer_utils import EvalPrediction

from hf_transfer.features.probes.scores import scores_of
from hf_transfer.metrics import compute_metrics_for


def test_classes_as_the_trainer_scores_them():
    generator = np.random.default_rng(0)
    logits, labels = generator.standard_normal((50, 4)), generator.integers(0, 3, 50)
    expected = compute_metrics_for("text-classification")(EvalPrediction(predictions=logits, label_ids=labels))
    for task in ("single_label", "token"):
        assert scores_of(task, logits.argmax(1), labels) == pytest.approx(expected)


def test_values_as_the_trainer_scores_them():
    generator = np.random.default_rng(0)
    guesses, labels = generator.standard_normal((50, 1)), generator.standard_normal((50, 1))
    expected = compute_metrics_for("regression")(EvalPrediction(predictions=guesses, label_ids=labels))
    found = scores_of("regression", guesses, labels)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_several_values():
    generator = np.random.default_rng(0)
    guesses, labels = generator.standard_normal((50, 3)), generator.standard_normal((50, 3))
    found = scores_of("regression", guesses, labels)
    assert found["mae"] == pytest.approx(mean_absolute_error(labels, guesses))
    assert found["r2"] == pytest.approx(r2_score(labels, guesses)) and "pearson" not in found


def test_values_that_do_not_vary():
    found = scores_of("regression", np.ones((4, 1)), np.zeros((4, 1)))
    assert found == {"mse": 1.0, "mae": 1.0, "r2": 0.0, "pearson": 0.0}


def test_several_labels_by_counting():
    guesses = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0]])
    labels = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0]])
    right, told, true = 5, 5, 6
    expected = {"micro_f1": 2 * right / (told + true), "exact_match": 2 / 3}
    assert scores_of("multi_label", guesses, labels) == pytest.approx(expected)


def test_no_label_told_and_none_there():
    assert scores_of("multi_label", np.zeros((2, 2), int), np.zeros((2, 2), int))["micro_f1"] == 0.0
