"""The two parts of a distillation against loops, and that they make up the whole."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.decoupled import decoupled_distillation, decoupled_parts
from hf_transfer.functional.distillation import distillation, kl_divergence, log_distribution


def double(*shape, grad=False, scale=2.0):
    return (scale * torch.randn(*shape, dtype=torch.float64)).requires_grad_(grad)


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_parts_against_a_loop(temperature):
    logits, reference, target = double(4, 5), double(4, 5), torch.tensor([0, 4, 2, 2])
    found = decoupled_parts(logits, reference, target, temperature)
    for row, label in enumerate(target.tolist()):
        q, p = (softmax((z[row] / temperature).tolist()) for z in (reference, logits))
        target_part = kl([q[label], 1 - q[label]], [p[label], 1 - p[label]])
        others = [c for c in range(5) if c != label]
        other_part = kl(*([x[c] / (1 - x[label]) for c in others] for x in (q, p)))
        assert [part[row].item() for part in found] == pytest.approx([target_part, other_part], rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 3, 50])
def test_the_parts_make_up_the_plain_divergence(classes, temperature):
    logits, reference = double(20, classes), double(20, classes)
    target = torch.randint(classes, (20,))
    target_part, other_part = decoupled_parts(logits, reference, target, temperature)
    log_q, log_p = (log_distribution(z, temperature) for z in (reference, logits))
    whole = kl_divergence(log_q, log_p)
    rest = 1 - log_q.exp().gather(-1, target.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(target_part + rest * other_part, whole, rtol=0, atol=1e-12)


def test_weighed_sum_against_its_parts():
    logits, reference, target = double(4, 5), double(4, 5), torch.tensor([0, 4, 2, 2])
    mask = torch.tensor([True, False, True, True])
    first, second = decoupled_parts(logits, reference, target, 3.0)
    expected = sum(9 * (0.5 * first[i] + 6.0 * second[i]).item() for i in (0, 2, 3)) / 3
    value = decoupled_distillation(logits, reference, target, alpha=0.5, beta=6.0, temperature=3.0, mask=mask)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_two_classes_are_the_plain_divergence():
    logits, reference, target = double(6, 2), double(6, 2), torch.randint(2, (6,))
    value = decoupled_distillation(logits, reference, target, temperature=2.0)
    assert value.item() == pytest.approx(distillation(logits, reference, temperature=2.0).item(), rel=1e-10)


def test_a_teacher_that_is_sure_still_tells_about_the_other_classes():
    """What the method is for: the plain divergence sends next to nothing there."""
    reference = torch.tensor([[30.0, 2.0, -2.0, 0.0]], dtype=torch.float64)
    gradients = []
    for function in (
        lambda z: decoupled_distillation(z, reference, torch.tensor([0]), alpha=0.0, temperature=1.0),
        lambda z: distillation(z, reference),
    ):
        logits = torch.tensor([[30.0, 0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(function(logits), logits)
        gradients.append(gradient.norm().item())
    assert gradients[0] > 1 and gradients[1] < 1e-10


def test_zero_at_the_teacher_and_gradcheck():
    logits, reference, target = double(3, 4, grad=True), double(3, 4), torch.tensor([3, 0, 1])
    same = decoupled_distillation(logits, logits.detach(), target)
    (gradient,) = torch.autograd.grad(same, logits)
    assert same.item() == 0
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(lambda z: decoupled_distillation(z, reference, target), logits)


def test_tokens_masks_and_huge_logits():
    logits, reference = double(2, 3, 4, grad=True), double(2, 3, 4)
    target, mask = torch.randint(4, (2, 3)), torch.tensor([[1, 1, 0], [0, 0, 1]])
    kept = mask == 1
    torch.testing.assert_close(
        decoupled_distillation(logits, reference, target, mask=mask),
        decoupled_distillation(logits[kept], reference[kept], target[kept]),
    )
    nothing = decoupled_distillation(logits, reference, target, mask=torch.zeros(2, 3))
    nothing.backward()
    assert nothing.item() == 0 and not logits.grad.any()
    far = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    value = decoupled_distillation(far, -far.detach(), torch.tensor([0, 1]))
    value.backward()
    assert value.isfinite() and value > 1 and far.grad.isfinite().all()
    half = decoupled_distillation(far.detach().bfloat16(), -far.detach().bfloat16(), torch.tensor([0, 1]))
    assert half.dtype == torch.float32 and half.isfinite()
