"""Divergences of two predictions against loops over the classes."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.consistency import squared_difference, symmetric_bernoulli_kl, symmetric_kl


def softmax(logits: list[float]) -> list[float]:
    return [math.exp(x) / sum(math.exp(y) for y in logits) for x in logits]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def two(shape) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 7)])
def test_symmetric_kl_against_both_divergences(shape):
    first, second = two(shape)
    values = symmetric_kl(first, second)
    assert values.shape == shape[:-1]
    pairs = zip(first.flatten(0, -2).tolist(), second.flatten(0, -2).tolist(), strict=True)
    for value, (a, b) in zip(values.flatten().tolist(), pairs, strict=True):
        p, q = softmax(a), softmax(b)
        assert value == pytest.approx((kl(p, q) + kl(q, p)) / 2, rel=1e-10)


def test_bernoulli_against_both_divergences_of_each_label():
    first, second = two((4, 3))
    values = symmetric_bernoulli_kl(first, second)
    for value, a, b in zip(values.tolist(), first.tolist(), second.tolist(), strict=True):
        total = 0.0
        for x, y in zip(a, b, strict=True):
            p, q = 1 / (1 + math.exp(-x)), 1 / (1 + math.exp(-y))
            total += (kl([p, 1 - p], [q, 1 - q]) + kl([q, 1 - q], [p, 1 - p])) / 2
        assert value == pytest.approx(total / 3, rel=1e-10)


def test_bernoulli_is_softmax_over_no_and_yes():
    first, second = two((6, 1))
    zeros = torch.zeros_like(first)
    as_classes = symmetric_kl(torch.cat([zeros, first], -1), torch.cat([zeros, second], -1))
    torch.testing.assert_close(symmetric_bernoulli_kl(first, second), as_classes)


def test_squared_difference_against_a_loop():
    first, second = two((3, 2))
    expected = [
        sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / 2
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert squared_difference(first, second).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("divergence", [symmetric_kl, symmetric_bernoulli_kl, squared_difference])
def test_is_symmetric_zero_for_equals_and_never_negative(divergence):
    first, second = two((50, 4))
    torch.testing.assert_close(divergence(first, second), divergence(second, first))
    assert (divergence(first, second) > 0).all()
    assert not divergence(first, first).any()


@pytest.mark.parametrize("divergence", [symmetric_kl, symmetric_bernoulli_kl, squared_difference])
def test_gradient_against_finite_differences(divergence):
    first, second = two((2, 3))
    assert torch.autograd.gradcheck(divergence, (first.requires_grad_(), second.requires_grad_()))


def test_certain_predictions_stay_finite():
    first = torch.tensor([[80.0, -80.0]], requires_grad=True)
    value = symmetric_kl(first, -first.detach())
    value.sum().backward()
    assert value.isfinite().all() and first.grad.isfinite().all()
