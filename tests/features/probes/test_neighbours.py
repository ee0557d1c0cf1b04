"""Nearest neighbours against sorting all distances."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.features.probes.neighbours import fit_neighbours, neighbour_logits
from tests.features.probes.data import blobs, several, training_of, values


def brute_force(rows, row, metric, count, without=None):
    """Numbers of the nearest rows."""
    if metric == "cosine":
        far = [1 - other @ row / np.linalg.norm(other) / np.linalg.norm(row) for other in rows]
    else:
        far = [np.sqrt(((other - row) ** 2).sum()) for other in rows]
    if without is not None:
        far[without] = np.inf
    return np.argsort(far, kind="stable")[:count]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("count", [1, 4])
def test_votes_of_classes(metric, count):
    training = training_of(*blobs())
    fitted = fit_neighbours(training, [count], [metric])
    rows = np.random.default_rng(3).standard_normal((10, 5)).astype(np.float32)
    logits = neighbour_logits(fitted.arrays, fitted.settings, rows)
    for row, found in zip(rows, logits, strict=True):
        votes = np.bincount(training.targets[brute_force(training.inputs, row, metric, count)], minlength=3)
        np.testing.assert_allclose(np.exp(found), (votes + 1 / 3) / (count + 1))
        assert np.exp(found).sum() == pytest.approx(1)


def test_several_labels_and_values():
    rows = np.random.default_rng(3).standard_normal((10, 5)).astype(np.float32)
    for data in (several(), values()):
        training = training_of(*data)
        fitted = fit_neighbours(training, [5], ["euclidean"])
        logits = neighbour_logits(fitted.arrays, fitted.settings, rows)
        for row, found in zip(rows, logits, strict=True):
            near = training.targets[brute_force(training.inputs, row, "euclidean", 5)]
            if training.labels == "values":
                np.testing.assert_allclose(found, near.mean(0))
            else:
                share = (near.sum(0) + 0.5) / 6
                np.testing.assert_allclose(found, np.log(share / (1 - share)))
                assert np.array_equal(found > 0, near.mean(0) > 0.5)


def test_scores_leave_each_row_out():
    training = training_of(*blobs(spread=3.0))
    fitted = fit_neighbours(training, [1, 5], ["euclidean", "cosine"])
    assert len(fitted.scores) == 4
    for candidate, score in fitted.scores.items():
        metric, count = candidate.split(", ")
        right = 0
        for number, row in enumerate(training.inputs):
            near = brute_force(training.inputs, row, metric, int(count), without=number)
            right += np.bincount(training.targets[near], minlength=3).argmax() == training.targets[number]
        assert score == pytest.approx(right / 60)
    assert fitted.scores[fitted.strength] == max(fitted.scores.values())
    assert fitted.strength == f"{fitted.settings['metric']}, {fitted.settings['neighbours']}"


def test_scores_of_given_rows():
    training = training_of(*blobs(), validation=blobs(20, seed=4, spread=3.0))
    fitted = fit_neighbours(training, [1, 3], ["euclidean"])
    own, labels = training.inputs[:60], training.targets[:60]
    assert np.array_equal(fitted.arrays["inputs"], own)
    for candidate, score in fitted.scores.items():
        count = int(candidate.split(", ")[1])
        near = [labels[brute_force(own, row, "euclidean", count)] for row in training.inputs[60:]]
        guesses = [np.bincount(votes, minlength=3).argmax() for votes in near]
        assert score == pytest.approx(np.mean(guesses == training.targets[60:]))


def test_rows_of_a_group_are_no_neighbours_of_each_other():
    """Each row three times: by leaving out single rows one neighbour would be perfect."""
    features, _ = blobs(20)
    labels = np.random.default_rng(0).permutation(np.arange(20) % 2)
    data = np.repeat(features, 3, axis=0), np.repeat(labels, 3)
    alone = fit_neighbours(training_of(*data), [1, 2], ["euclidean"])
    grouped = fit_neighbours(training_of(*data, groups=np.repeat(np.arange(20), 3)), [1, 2], ["euclidean"])
    assert alone.scores["euclidean, 1"] == 1.0 and grouped.scores["euclidean, 1"] < 0.8


def test_fewer_rows_than_neighbours():
    training = training_of(*blobs(6))
    fitted = fit_neighbours(training, [3, 50], ["euclidean"])
    few = {**fitted.settings, "neighbours": 50}
    logits = neighbour_logits(fitted.arrays, few, training.inputs)
    np.testing.assert_allclose(np.exp(logits), 1 / 3)
