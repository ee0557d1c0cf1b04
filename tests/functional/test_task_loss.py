"""The loss over labelled rows against loops and the models' own losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hf_transfer.functional.task_loss import labelled_mean, labelled_multi_label, labelled_regression


def test_labelled_mean_is_the_models_loss_where_something_is_labelled():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, -100, 3])
    loss = F.cross_entropy(logits, labels)
    assert labelled_mean(loss, logits, labels) == loss
    expected = -(logits.log_softmax(-1)[0, 1] + logits.log_softmax(-1)[2, 3]) / 2
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_nothing_labelled_is_an_exact_zero_with_finite_zero_gradients(shape):
    logits = torch.randn(*shape, 4, requires_grad=True)
    labels = torch.full(shape, -100)
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
    assert loss.isnan()
    value = labelled_mean(loss, logits, labels)
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_regression_against_a_loop():
    logits = torch.randn(5, 1, dtype=torch.float32)
    labels = torch.tensor([0.5, -100.0, 2.0, -100.0, -1.0])
    errors = [(x - y) ** 2 for x, y in zip(logits.flatten().tolist(), labels.tolist(), strict=True) if y != -100.0]
    assert labelled_regression(logits, labels).item() == pytest.approx(sum(errors) / len(errors), rel=1e-6)


def test_multi_label_against_a_loop():
    logits = torch.randn(3, 4)
    labels = torch.tensor([[1.0, 0, 1, 0], [-100] * 4, [0, 0, 1, -100]])
    losses = []
    for x, y in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if y != -100:
            p = 1 / (1 + math.exp(-x))
            losses.append(-math.log(p if y else 1 - p))
    assert labelled_multi_label(logits, labels).item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("loss", [labelled_regression, labelled_multi_label])
def test_nothing_labelled_of_other_problems_is_an_exact_zero(loss):
    logits = torch.randn(3, 2, requires_grad=True)
    value = loss(logits, torch.full((3, 2), -100.0))
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))
