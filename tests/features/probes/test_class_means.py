"""Nearest class mean against distances computed one by one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from hf_transfer.features.probes.class_means import fit_class_means
from tests.features.probes.data import blobs, training_of


def distances(inputs, labels, rows, shrinkage):
    """Squared distances of rows to the means of the classes, by loops."""
    classes = sorted(set(labels.tolist()))
    means = {c: inputs[labels == c].mean(0) for c in classes}
    width = inputs.shape[1]
    covariance = np.zeros((width, width))
    for row, label in zip(inputs, labels, strict=True):
        covariance += np.outer(row - means[label], row - means[label]) / len(inputs)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / width * np.eye(width)
    inverse = np.linalg.inv(covariance)
    return np.array([[(row - means[c]) @ inverse @ (row - means[c]) for c in classes] for row in rows])


@pytest.mark.parametrize("shrinkage", [1.0, 0.3, 0.0])
def test_logits_are_minus_half_the_squared_distance(shrinkage):
    training = training_of(*blobs())
    inputs = training.inputs.astype(float)
    arrays = fit_class_means(training, [shrinkage]).arrays
    logits = inputs @ arrays["weight"].T + arrays["bias"]
    expected = -0.5 * distances(inputs, training.targets, inputs, shrinkage)
    np.testing.assert_allclose(logits - logits[:, :1], expected - expected[:, :1], atol=1e-9)


def test_without_shrinkage_it_is_linear_discriminant_analysis():
    training = training_of(*blobs())
    inputs = training.inputs.astype(float)
    arrays = fit_class_means(training, [0.0]).arrays
    logits = inputs @ arrays["weight"].T + arrays["bias"]
    expected = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3).fit(inputs, training.targets)
    # scikit-learn divides by N - C where the classes are large, this by N
    np.testing.assert_array_equal(logits.argmax(1), expected.predict(inputs))


def test_shrinkage_is_chosen_by_held_out_rows():
    training = training_of(*blobs(spread=3.0), folds=3)
    fitted = fit_class_means(training, [0.1, 1.0])
    inputs = training.inputs.astype(float)
    for shrinkage, score in fitted.scores.items():
        found = []
        for train, held in training.splits():
            answers = distances(inputs[train], training.targets[train], inputs[held], shrinkage).argmin(1)
            found.append(np.mean(answers == training.targets[held]))
        assert score == pytest.approx(np.mean(found))
    assert list(fitted.scores) == [1.0, 0.1] and fitted.scores[fitted.strength] == max(fitted.scores.values())


def test_one_row_of_each_class():
    features, labels = np.eye(4, dtype=np.float32), np.arange(4)
    arrays = fit_class_means(training_of(features, labels), [1.0, 0.5]).arrays
    inputs = training_of(features, labels).inputs
    assert (inputs @ arrays["weight"].T + arrays["bias"]).argmax(1).tolist() == [0, 1, 2, 3]


def test_a_class_without_rows_is_never_the_answer():
    features, labels = blobs()
    labels[labels == 1] = 2
    arrays = fit_class_means(training_of(features, labels, classes=4), [1.0]).arrays
    far = 100 * np.random.default_rng(1).standard_normal((500, 5))
    assert set((far @ arrays["weight"].T + arrays["bias"]).argmax(1)) == {0, 2}


def test_more_features_than_rows():
    training = training_of(*blobs(rows=9, width=30))
    arrays = fit_class_means(training, [0.5]).arrays
    logits = training.inputs @ arrays["weight"].T + arrays["bias"]
    expected = distances(training.inputs.astype(float), training.targets, training.inputs.astype(float), 0.5)
    np.testing.assert_array_equal(logits.argmax(1), expected.argmin(1))
