"""Metrics of the kinds of tasks, and scores of single rows, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score
from transformers import EvalPrediction

from hf_transfer.multitask.scoring import RowScores, main_metric, row_scores, task_metrics
from tests.multitask.running_rows import STARS, TAGS, TOPIC, WORDS, Task


def test_several_labels_are_scored_as_scikit_learn_does():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(30, 4)), random.integers(0, 2, (30, 4))
    found = task_metrics(TAGS)(EvalPrediction(logits, labels))
    predicted = (logits > 0).astype(int)
    assert found["f1"] == pytest.approx(f1_score(labels, predicted, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found["accuracy"] == pytest.approx((predicted == labels).mean())


def test_unlabelled_entries_of_several_labels_do_not_count():
    logits = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    labels = np.array([[1, -100], [-100, -100], [0, 1]])
    found = task_metrics(TAGS)(EvalPrediction(logits, labels))
    assert found == {"f1": 1.0, "macro_f1": 1.0, "accuracy": 1.0}
    nothing = task_metrics(TAGS)(EvalPrediction(-np.ones((2, 2)), np.zeros((2, 2))))
    assert nothing == {"f1": 0.0, "macro_f1": 0.0, "accuracy": 1.0}
    with pytest.raises(ValueError, match="None of the 3 rows has a label .* Evaluate the task on rows of its own"):
        task_metrics(TAGS)(EvalPrediction(logits, np.full((3, 2), -100)))


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (TOPIC, {"accuracy", "macro_f1"}),
        (STARS, {"mse", "pearson"}),
        (TAGS, {"f1", "macro_f1", "accuracy"}),
        (WORDS, {"f1", "precision", "recall", "accuracy"}),
        (Task("words", "tokens", num_labels=2), {"accuracy", "macro_f1"}),
    ],
)
def test_every_kind_reports_what_it_is_judged_by(task, names):
    random = np.random.default_rng(0)
    shape = (6, 5, task.num_labels) if task.kind == "tokens" else (6, task.num_labels)
    logits = random.normal(size=shape)
    labels = {
        "regression": random.normal(size=6),
        "multi_label": random.integers(0, 2, (6, 2)),
        "tokens": random.integers(0, 2, (6, 5)),
    }.get(task.kind, random.integers(0, 3, 6))
    found = task_metrics(task)(EvalPrediction(logits, labels))
    assert set(found) == names and main_metric(task) in names


def naive(task, logits, labels):
    """The score of each row by a loop, and how many labels it has."""
    scores, weights = [], []
    for row, own in zip(logits, labels, strict=True):
        if task.kind == "regression":
            pairs = [((a - b) ** 2) for a, b in zip(np.ravel(row), np.ravel(own), strict=True) if b != -100]
        elif task.kind == "multi_label":
            pairs = [float((a > 0) == (b == 1)) for a, b in zip(row, own, strict=True) if b != -100]
        else:
            rows = row if task.kind == "tokens" else [row]
            pairs = [float(np.argmax(a) == b) for a, b in zip(rows, np.ravel(own), strict=True) if b != -100]
        scores.append(sum(pairs) / len(pairs) if pairs else 0.0)
        weights.append(len(pairs))
    return np.array(scores), np.array(weights)


@pytest.mark.parametrize("task", [TOPIC, STARS, Task("both", "regression", num_labels=2), TAGS, WORDS])
def test_rows_are_scored_as_by_a_loop(task):
    random = np.random.default_rng(1)
    shape = (7, 5, task.num_labels) if task.kind == "tokens" else (7, task.num_labels)
    logits = random.normal(size=shape)
    labels = {
        "regression": random.normal(size=(7, task.num_labels)),
        "multi_label": random.integers(0, 2, (7, 2)),
        "tokens": random.integers(0, 2, (7, 5)),
    }.get(task.kind, random.integers(0, 3, 7))
    labels[2] = -100
    if task.kind == "tokens":
        labels[3, 2:] = -100
    if task.kind == "regression" and task.num_labels == 1:
        labels = labels[:, 0]
    found = row_scores(task, logits, labels)
    scores, weights = naive(task, logits, labels)
    np.testing.assert_allclose(found.scores, scores)
    np.testing.assert_array_equal(found.weights, weights)
    assert found.mean == pytest.approx((scores * weights).sum() / weights.sum()) and found.weights[2] == 0


def test_the_mean_of_the_rows_is_the_metric():
    random = np.random.default_rng(2)
    logits, labels = random.normal(size=(40, 5, 2)), random.integers(-1, 2, (40, 5))
    labels[labels < 0] = -100
    metric = task_metrics(Task("words", "tokens", num_labels=2))(EvalPrediction(logits, labels))
    assert row_scores(WORDS, logits, labels).mean == pytest.approx(metric["accuracy"])
    assert RowScores(np.array([1.0, 9.0]), np.array([2.0, 0.0])).mean == 1.0
