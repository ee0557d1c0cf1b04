"""The relationship of source and target classes against loops and against data with a known one."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from hf_transfer.functional.category_relationship import (
    calibration_temperature,
    direct_relationship,
    reverse_relationship,
)


def rows(count: int, relationship: torch.Tensor, *, sharpness: float = 4.0):
    """Labels in turn, and predictions of a source class drawn from the label's row."""
    labels = torch.arange(count) % len(relationship)
    source = torch.multinomial(relationship[labels], 1).squeeze(1)
    logits = sharpness * F.one_hot(source, relationship.shape[1]).double()
    return torch.softmax(logits + 0.3 * torch.randn(logits.shape, dtype=torch.float64), -1), labels


def test_direct_is_the_mean_prediction_of_each_class():
    probabilities = torch.softmax(torch.randn(7, 4, dtype=torch.float64), -1)
    labels = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    learned = direct_relationship(probabilities, labels, 3)
    for target in range(3):
        members = [probabilities[row].tolist() for row in range(7) if labels[row] == target]
        for source in range(4):
            mean = sum(member[source] for member in members) / len(members)
            assert learned[target, source].item() == pytest.approx(mean, rel=1e-12)
    assert learned.sum(1).tolist() == pytest.approx([1, 1, 1])


def test_reverse_is_bayes_rule_on_a_logistic_regression():
    # one row of a class: no folds, so strength and temperature are 1 and the whole can be written out
    probabilities = torch.softmax(torch.randn(9, 4, dtype=torch.float64), -1)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 2])
    learned = reverse_relationship(probabilities, labels, 3)
    regression = LogisticRegression(C=1.0, fit_intercept=False, max_iter=300).fit(
        probabilities.numpy(), labels.numpy()
    )
    prior = probabilities.numpy().mean(0)
    for target in range(3):
        joint = []
        for source in range(4):
            certain = np.zeros((1, 4))
            certain[0, source] = 1
            joint.append(regression.predict_proba(certain)[0, target] * prior[source])
        expected = [value / sum(joint) for value in joint]
        assert learned[target].tolist() == pytest.approx(expected, rel=1e-9)


def test_reverse_with_two_classes_is_a_distribution_too():
    probabilities = torch.softmax(torch.randn(5, 3, dtype=torch.float64), -1)
    labels = torch.tensor([0, 0, 0, 0, 1])
    learned = reverse_relationship(probabilities, labels, 2)
    regression = LogisticRegression(C=1.0, fit_intercept=False).fit(probabilities.numpy(), labels.numpy())
    joint = regression.predict_proba(np.eye(3))[:, 1] * probabilities.numpy().mean(0)
    assert learned[1].tolist() == pytest.approx(list(joint / joint.sum()), rel=1e-6)
    assert learned.sum(1).tolist() == pytest.approx([1, 1])
    assert reverse_relationship(probabilities, torch.zeros(5, dtype=torch.long), 1).shape == (1, 3)


@pytest.mark.parametrize("learn", [direct_relationship, reverse_relationship])
def test_finds_the_relationship_the_data_was_drawn_from(learn):
    truth = torch.tensor([[0.7, 0.3, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 0, 0, 0.1, 0.9]])
    probabilities, labels = rows(600, truth, sharpness=6.0)
    learned = learn(probabilities, labels, 3)
    assert learned.shape == (3, 5) and learned.dtype == torch.float64
    assert learned.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert (learned - truth).abs().max() < 0.12
    torch.testing.assert_close(learned, learn(probabilities, labels, 3))  # nothing random


def test_reverse_needs_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match="with scikit-learn.*not installed.*pip install scikit-learn.*direct"):
        reverse_relationship(torch.eye(2), torch.arange(2), 2)


@pytest.mark.parametrize("truth", [0.3, 1.0, 2.5, 6.0])
def test_calibration_finds_the_temperature_of_the_labels(truth):
    logits = 4 * torch.randn(400, 5, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(logits / truth, -1), 1).squeeze(1)
    found = calibration_temperature(logits, labels)
    best = minimize_scalar(
        lambda log: F.cross_entropy(logits / np.exp(log), labels).item(), bounds=(-3, 3), method="bounded"
    )
    assert found == pytest.approx(np.exp(best.x), rel=1e-3)
    assert found == pytest.approx(truth, rel=0.35)


def test_calibration_of_faultless_and_of_useless_predictions_stays_in_bounds():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert calibration_temperature(logits, torch.tensor([0, 1])) == pytest.approx(0.05)
    assert calibration_temperature(logits, torch.tensor([1, 0])) == pytest.approx(20)
