"""At the solution the gradient of the penalised loss is zero, in every form the labels have."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hf_transfer.features.probes import logistic
from hf_transfer.features.probes.logistic import fit_logistic
from tests.features.probes.data import blobs, several, training_of


def softmax(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.mark.parametrize("intercept", [True, False])
def test_gradient_of_the_penalised_loss_is_zero(intercept):
    features, labels = blobs()
    training = training_of(features, labels, intercept=intercept)
    fitted = fit_logistic(training, [0.3])
    weight, bias, inputs = fitted.arrays["weight"], fitted.arrays["bias"], training.inputs.astype(float)
    residual = softmax(inputs @ weight.T + bias) - np.eye(3)[labels]
    np.testing.assert_allclose(residual.T @ inputs / 60 + weight / (0.3 * 60), 0, atol=2e-5)
    assert intercept == bool(bias.any())
    if intercept:
        np.testing.assert_allclose(residual.sum(0) / 60, 0, atol=2e-5)


def test_two_classes_are_one_regression():
    features, labels = blobs(classes=2)
    training = training_of(features, labels)
    arrays = fit_logistic(training, [0.3]).arrays
    np.testing.assert_allclose(arrays["weight"].sum(0), 0, atol=1e-12)
    inputs = training.inputs.astype(float)
    probability = softmax(inputs @ arrays["weight"].T + arrays["bias"])[:, 1]
    difference = arrays["weight"][1] - arrays["weight"][0]
    np.testing.assert_allclose((probability - labels) @ inputs / 60 + difference / (0.3 * 60), 0, atol=2e-5)
    expected = LogisticRegression(C=0.3, tol=1e-8).fit(inputs, labels).predict_proba(inputs)[:, 1]
    np.testing.assert_allclose(probability, expected, atol=1e-4)


def test_several_labels_are_a_regression_each():
    features, labels = several()
    training = training_of(features, labels)
    arrays = fit_logistic(training, [0.3]).arrays
    inputs = training.inputs.astype(float)
    for number in range(3):
        probability = 1 / (1 + np.exp(-(inputs @ arrays["weight"][number] + arrays["bias"][number])))
        gradient = (probability - labels[:, number]) @ inputs / 60 + arrays["weight"][number] / (0.3 * 60)
        np.testing.assert_allclose(gradient, 0, atol=2e-5)


def test_a_label_that_all_or_no_rows_have():
    features, labels = several()
    labels[:, 0], labels[:, 2] = 1, 0
    arrays = fit_logistic(training_of(features, labels), [0.1, 1.0]).arrays
    assert not arrays["weight"][[0, 2]].any() and arrays["weight"][1].any()
    np.testing.assert_allclose(arrays["bias"][[0, 2]], [np.log(60.5 / 0.5), np.log(0.5 / 60.5)])


def test_a_class_without_rows_is_never_the_answer():
    features, labels = blobs(classes=3)
    labels[labels == 1] = 2
    training = training_of(features, labels, classes=4)
    arrays = fit_logistic(training, [0.01, 1.0]).arrays
    assert not arrays["weight"][[1, 3]].any()
    far = 100 * np.random.default_rng(1).standard_normal((500, 5))
    assert set((far @ arrays["weight"].T + arrays["bias"]).argmax(1)) <= {0, 2}


def test_scores_are_the_mean_accuracy_of_the_folds():
    """Along the path in float32 as by fits from scratch in float64."""
    features, labels = blobs(spread=2.0)
    training = training_of(features, labels, folds=3)
    fitted = fit_logistic(training, [1.0, 0.001, 0.03])
    inputs = training.inputs.astype(float)
    for strength, score in fitted.scores.items():
        found = []
        for train, held in training.splits():
            model = LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(inputs[train], labels[train])
            found.append(model.score(inputs[held], labels[held]))
        assert score == pytest.approx(np.mean(found), abs=0.02)
    assert list(fitted.scores) == [0.001, 0.03, 1.0]
    assert fitted.scores[fitted.strength] == max(fitted.scores.values())


def test_a_single_strength_needs_no_folds(monkeypatch):
    training = training_of(*blobs())
    monkeypatch.setattr(type(training), "splits", lambda self: pytest.fail("nothing is to be chosen"))
    assert fit_logistic(training, [1.0]).scores == {}


def test_what_does_not_converge_is_told(monkeypatch):
    monkeypatch.setattr(logistic, "_ITERATIONS", 2)
    warned = []
    monkeypatch.setattr(logistic.logger, "warning", warned.append)
    fit_logistic(training_of(*blobs()), [100.0])
    assert "has not converged in 2 steps" in warned[0]
