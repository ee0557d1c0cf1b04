"""The divergences of a teacher's predictions: against loops, at their ends, and the faults that others' have."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hf_transfer.functional.distillation import (
    distillation,
    jensen_shannon,
    kl_divergence,
    log_distribution,
    logit_error,
    standardized,
)


BETAS = [None, 0.0, 0.1, 0.5, 0.9, 1.0]


def double(*shape, grad=False, scale=1.0):
    return (scale * torch.randn(*shape, dtype=torch.float64)).requires_grad_(grad)


def softmax(values, temperature=1.0):
    total = sum(math.exp(value / temperature) for value in values)
    return [math.exp(value / temperature) / total for value in values]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def divergence(teacher, student, beta):
    if beta is None or beta == 0:
        return kl(teacher, student)
    if beta == 1:
        return kl(student, teacher)
    mixture = [beta * t + (1 - beta) * s for t, s in zip(teacher, student, strict=True)]
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_against_a_loop(temperature, beta):
    logits, reference = double(3, 4), double(3, 4)
    value = distillation(logits, reference, temperature=temperature, beta=beta)
    expected = 0.0
    for row in range(3):
        teacher, student = (softmax(z[row].tolist(), temperature) for z in (reference, logits))
        expected += divergence(teacher, student, beta)
    assert value.item() == pytest.approx(temperature**2 * expected / 3, rel=1e-10) and value > 0


@pytest.mark.parametrize("beta", BETAS)
def test_several_labels_are_the_sum_of_their_own_divergences(beta):
    logits, reference = double(2, 3), double(2, 3)
    value = distillation(logits, reference, temperature=2.0, beta=beta, multi_label=True)
    expected = 0.0
    for row in range(2):
        for label in range(3):
            p, q = (1 / (1 + math.exp(-z[row, label].item() / 2)) for z in (reference, logits))
            expected += divergence([p, 1 - p], [q, 1 - q], beta)
    assert value.item() == pytest.approx(4 * expected / 2, rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 8.0])
def test_gradient_is_the_difference_of_the_probabilities(temperature):
    logits, reference = double(5, 4, grad=True), double(5, 4)
    distillation(logits, reference, temperature=temperature).backward()
    p, q = (torch.softmax(z.detach() / temperature, -1) for z in (logits, reference))
    torch.testing.assert_close(logits.grad, temperature * (p - q) / 5)
    logits = double(5, 4, grad=True)
    distillation(logits, reference, temperature=temperature, multi_label=True).backward()
    p, q = (torch.sigmoid(z.detach() / temperature) for z in (logits, reference))
    torch.testing.assert_close(logits.grad, temperature * (p - q) / 5)


@pytest.mark.parametrize("beta", BETAS)
def test_the_square_of_the_temperature_keeps_the_size_of_the_gradient(beta):
    logits, reference = double(6, 5, grad=True, scale=1e-3), double(6, 5, scale=1e-3)
    gradients = []
    for temperature in (1.0, 8.0):
        (gradient,) = torch.autograd.grad(distillation(logits, reference, temperature=temperature, beta=beta), logits)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=2e-2, atol=1e-7)
    without = gradients[1] / 64  # what a library without the factor gives its users
    assert without.norm() < 0.02 * gradients[0].norm()


def test_high_temperature_is_the_error_of_centred_logits():
    """Hinton et al., section 2.1."""
    logits, reference = double(6, 5), double(6, 5)
    logits, reference = logits - logits.mean(-1, keepdim=True), reference - reference.mean(-1, keepdim=True)
    value = distillation(logits, reference, temperature=1e4)
    assert value.item() == pytest.approx(logit_error(logits, reference).item() / 2, rel=1e-3)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("beta", BETAS)
def test_is_zero_where_both_agree(beta, multi_label):
    logits = double(5, 4, grad=True)
    value = distillation(logits, logits.detach(), temperature=2.0, beta=beta, multi_label=multi_label)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-15)
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-15, rtol=0)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("beta", BETAS)
def test_gradients_are_right_and_finite_far_out(beta, multi_label):
    logits, reference = double(2, 3, grad=True), double(2, 3)
    assert torch.autograd.gradcheck(
        lambda z: distillation(z, reference, temperature=2.0, beta=beta, multi_label=multi_label), logits
    )
    far = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = distillation(far, -far.detach(), beta=beta, multi_label=multi_label)
    value.backward()
    assert value.isfinite() and far.grad.isfinite().all() and value > 0.1


def test_the_mixture_has_the_two_divergences_as_its_slopes_at_the_ends():
    teacher, student = (F.log_softmax(double(7), -1) for _ in range(2))
    for beta, expected in ((1e-7, kl_divergence(teacher, student)), (1 - 1e-7, kl_divergence(student, teacher))):
        value = jensen_shannon(teacher, student, beta) / (beta * (1 - beta))
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    forward, reverse = jensen_shannon(teacher, student, 0.5), jensen_shannon(student, teacher, 0.5)
    assert forward.item() == pytest.approx(reverse.item()) and 0 < forward < math.log(2)


def test_no_gradient_reaches_the_reference():
    logits, reference = double(2, 3, grad=True), double(2, 3, grad=True)
    (distillation(logits, reference) + logit_error(logits, reference)).backward()
    assert reference.grad is None and logits.grad.any()


@pytest.mark.parametrize("multi_label", [False, True])
def test_counts_the_rows_of_the_mask(multi_label):
    logits, reference = double(2, 3, 4, grad=True), double(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    for function in (
        lambda z, t, m=None: distillation(z, t, mask=m, multi_label=multi_label),
        lambda z, t, m=None: distillation(z, t, mask=m, multi_label=multi_label, beta=0.3),
        logit_error,
    ):
        torch.testing.assert_close(
            function(logits, reference, mask), function(logits[mask == 1], reference[mask == 1])
        )
        logits.grad = None
        nothing = function(logits, reference, torch.zeros(2, 3))
        nothing.backward()
        assert nothing.item() == 0 and not logits.grad.any()


def test_logit_error_against_a_loop():
    logits, reference = double(3, 4, grad=True), double(3, 4)
    expected = sum((logits[i, c] - reference[i, c]).item() ** 2 for i in range(3) for c in range(4)) / 12
    assert logit_error(logits, reference).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda z: logit_error(z, reference), logits)


def test_standardized_against_a_loop():
    logits = double(4, 6, scale=3.0)
    found = standardized(logits, epsilon=0.0)
    for row in range(4):
        values = logits[row].tolist()
        mean = sum(values) / 6
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 6)
        expected = [(value - mean) / deviation for value in values]
        assert found[row].tolist() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(standardized(7 * logits + 3), standardized(logits), rtol=0, atol=1e-6)
    assert torch.autograd.gradcheck(standardized, logits.requires_grad_())


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4, -1e4, 3e-8])
@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_constant_logits_become_zero_and_send_a_finite_gradient(value, classes):
    logits = torch.full((2, classes), value, requires_grad=True)
    found = standardized(logits)
    distillation(found, standardized(torch.randn(2, classes))).backward()
    assert not found.any() and logits.grad.isfinite().all()


def test_standardized_logits_of_two_classes_send_no_gradient():
    """Why the objective refuses them: a silent zero."""
    logits = double(5, 2, grad=True)
    found = standardized(logits, epsilon=0.0)
    torch.testing.assert_close(found.abs(), torch.ones_like(found))
    distillation(found, standardized(double(5, 2))).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-12)


def test_distribution_of_one_value_is_certain_whatever_it_is():
    """Why one output is never distilled by a softmax: a silent zero."""
    assert distillation(double(3, 1), double(3, 1)).item() == 0
    assert log_distribution(double(3, 1), multi_label=True).shape == (3, 1, 2)
    assert distillation(double(3, 1), double(3, 1), multi_label=True).item() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_full(dtype):
    logits, reference = torch.randn(4, 3).to(dtype), torch.randn(4, 3).to(dtype)
    torch.testing.assert_close(distillation(logits, reference), distillation(logits.float(), reference.float()))
    assert logit_error(logits, reference).dtype == standardized(logits).dtype == torch.float32
    assert log_distribution(double(2, 3)).dtype == torch.float64
