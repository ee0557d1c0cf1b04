"""The discrepancy of two classifiers against a loop, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.classifier_discrepancy import classifier_discrepancy


def test_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    counted = torch.tensor([1, 0, 1, 1, 0]).bool()
    total = 0.0
    for p, q, counts in zip(first.tolist(), second.tolist(), counted.tolist(), strict=True):
        if counts:
            for c in range(3):
                of_first = math.exp(p[c]) / sum(map(math.exp, p))
                of_second = math.exp(q[c]) / sum(map(math.exp, q))
                total += abs(of_first - of_second) / 3
    assert classifier_discrepancy(first, second, counted).item() == pytest.approx(total / 3, rel=1e-12)


def test_bounds():
    sure = torch.tensor([[1e4, 0.0, 0.0], [1e4, 0.0, 0.0]])
    other = torch.tensor([[0.0, 1e4, 0.0], [1e4, 0.0, 0.0]])
    assert classifier_discrepancy(sure, sure, torch.ones(2)).item() == 0
    assert classifier_discrepancy(sure, other, torch.tensor([1, 0])).item() == pytest.approx(2 / 3)


def test_equal_classifiers_and_no_rows_have_finite_gradients():
    logits = torch.randn(3, 4, requires_grad=True)
    value = classifier_discrepancy(logits, 1 * logits, torch.ones(3)) + classifier_discrepancy(
        logits, -logits, torch.zeros(3)
    )
    value.backward()
    assert value.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))
