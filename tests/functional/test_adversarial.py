"""Gradient reversal and the domain cross-entropy against hand-made computations, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.adversarial import domain_cross_entropy, masked_mean, reverse_gradient


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, torch.tensor(2.5)])
def test_reversal_is_the_identity_forward_and_scales_backward(strength):
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, dtype=torch.float64)
    y = reverse_gradient(x, strength)
    assert torch.equal(y, x)
    (y * weight).sum().backward()
    torch.testing.assert_close(x.grad, -float(strength) * weight, rtol=1e-6, atol=0)


def test_reversal_keeps_the_dtype_of_the_features():
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    reverse_gradient(x, torch.tensor(0.5)).sum().backward()
    assert x.grad.dtype == torch.bfloat16 and x.grad.tolist() == [-0.5, -0.5]


def test_no_gradient_for_the_strength():
    strength = torch.tensor(1.0, requires_grad=True)
    x = torch.ones(2, requires_grad=True)
    reverse_gradient(x, strength).sum().backward()
    assert strength.grad is None


def naive_cross_entropy(logits, domain):
    total = 0.0
    for row, k in zip(logits.tolist(), domain.tolist(), strict=True):
        exponentials = [math.exp(value) for value in row]
        total -= math.log(exponentials[k] / sum(exponentials))
    return total / len(domain)


@pytest.mark.parametrize("domains", [2, 3, 5])
def test_cross_entropy_against_a_loop(domains):
    logits = torch.randn(7, domains, dtype=torch.float64)
    domain = torch.arange(7) % domains
    assert domain_cross_entropy(logits, domain).item() == pytest.approx(naive_cross_entropy(logits, domain), rel=1e-12)


@pytest.mark.parametrize("domains", [2, 3])
def test_chance_is_log_k(domains):
    domain = torch.arange(6) % domains
    value = domain_cross_entropy(torch.zeros(6, domains, dtype=torch.float64), domain)
    assert value.item() == pytest.approx(math.log(domains), rel=1e-12)


@pytest.mark.parametrize("domain", [[0, 0, 0], [1, 1, 1], [1]])
def test_one_domain_is_an_exact_zero_with_zero_gradients(domain):
    logits = torch.randn(len(domain), 2, requires_grad=True)
    value = domain_cross_entropy(logits, torch.tensor(domain))
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_weighted_cross_entropy_against_a_loop():
    logits = torch.randn(7, 3, dtype=torch.float64)
    domain = torch.tensor([0, 1, 2, 1, 0, 0, 2])
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0, 0.0, 3.0, 0.25], dtype=torch.float64)
    total = 0.0
    for row, k, weight in zip(logits, domain.tolist(), weights.tolist(), strict=True):
        total += weight * naive_cross_entropy(row[None], torch.tensor([k]))
    value = domain_cross_entropy(logits, domain, weights)
    assert value.item() == pytest.approx(total / 6.75, rel=1e-12)


def test_weights_of_one_change_nothing_and_rows_without_weight_are_not_there():
    logits, domain = torch.randn(6, 2, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0])
    ones = torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(domain_cross_entropy(logits, domain, ones), domain_cross_entropy(logits, domain))
    ones[4:] = 0
    torch.testing.assert_close(
        domain_cross_entropy(logits, domain, ones), domain_cross_entropy(logits[:4], domain[:4])
    )


@pytest.mark.parametrize("weights", [[1.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
def test_one_domain_among_the_rows_that_count_is_an_exact_zero(weights):
    logits = torch.randn(3, 2, requires_grad=True)
    value = domain_cross_entropy(logits, torch.tensor([0, 0, 1]), torch.tensor(weights))
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_masked_mean():
    values = torch.tensor([1.0, 5.0, -2.0], dtype=torch.float64, requires_grad=True)
    assert masked_mean(values, torch.tensor([True, False, True])).item() == -0.5
    nothing = masked_mean(values, torch.zeros(3))
    nothing.backward()
    assert nothing.item() == 0 and values.grad.tolist() == [0.0, 0.0, 0.0]
