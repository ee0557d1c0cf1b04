"""Margin disparity against loops and closed forms, in float64."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from hf_transfer.functional.margin_disparity import margin_disparity, negative_log_complement


def draw(n=6, c=4):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, c, dtype=torch.float64, generator=generator)
    return logits, torch.randint(0, c, (n,), generator=generator)


def softmax(row):
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_log_of_the_complement_against_a_loop(classes):
    logits, wrong = draw(c=classes)
    expected = [-math.log(1 - softmax(row)[k]) for row, k in zip(logits.tolist(), wrong.tolist(), strict=True)]
    torch.testing.assert_close(negative_log_complement(logits, wrong), torch.tensor(expected, dtype=torch.float64))


def test_log_of_the_complement_is_exact_where_a_clamp_would_not_be():
    """1 - p is 0 in float32 from a margin of 17 on; a small number added to it stops the loss at 14 nats."""
    logits = torch.tensor(
        [[1e4, 0.0, 0.0], [-1e4, 0.0, 0.0], [30.0, 0.0, -1e4], [-40.0, 0.0, 0.0]], requires_grad=True
    )
    values = negative_log_complement(logits, torch.zeros(4, dtype=torch.long))
    tiny = math.exp(-40) / 2  # log(1 + x) = x there
    torch.testing.assert_close(
        values, torch.tensor([1e4 - math.log(2), 0.0, 30.0 + math.log1p(math.exp(-30)), tiny]), rtol=1e-5, atol=0
    )
    values.sum().backward()
    assert logits.grad.isfinite().all()
    # saturated, it still pulls the class down with full force, and the nearest other up
    assert logits.grad[0, 0].item() == 1.0 and logits.grad[0, 1:].sum().item() == pytest.approx(-1.0)


def test_gradient_of_the_complement():
    logits, wrong = draw()
    assert torch.autograd.gradcheck(lambda x: negative_log_complement(x, wrong), logits.requires_grad_())


def test_two_sides_with_their_own_means():
    logits, predictions = draw(7)
    source = torch.tensor([1, 0, 0, 1, 0, 1, 0]).bool()
    target = torch.tensor([0, 1, 0, 0, 1, 0, 0]).bool()  # two rows are on neither side
    agree, disagree = [], []
    for row, k, s, t in zip(logits.tolist(), predictions.tolist(), source.tolist(), target.tolist(), strict=True):
        p = softmax(row)[k]  # one number per row, not a column for each row, and softmax once
        if s:
            agree.append(-math.log(p))
        if t:
            disagree.append(-math.log(1 - p))
    expected = 3.0 * sum(agree) / 3 + sum(disagree) / 2
    assert margin_disparity(logits, predictions, source, target, 3.0).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("margin", [1, 2, 4])
def test_balance_is_at_gamma_over_one_plus_gamma(margin):
    """Source and target alike: the best adversary gives the predicted class that probability, the paper's margin."""
    best = Fraction(margin, margin + 1)
    # two classes with p of the first: logit log(p / (1 - p)) = log(margin)
    logit = torch.tensor(math.log(margin), dtype=torch.float64, requires_grad=True)
    logits = torch.stack([logit, torch.zeros_like(logit)]).expand(2, 2)
    sides = torch.tensor([True, False]), torch.tensor([False, True])
    value = margin_disparity(logits, torch.tensor([0, 0]), *sides, float(margin))
    (gradient,) = torch.autograd.grad(value, logit)
    assert gradient.item() == pytest.approx(0, abs=1e-12)
    assert value.item() == pytest.approx(-margin * math.log(best) - math.log(1 - best), rel=1e-12)


@pytest.mark.parametrize(("source", "target"), [(1, 0), (0, 1), (0, 0)])
def test_one_side_alone_is_an_exact_zero_with_zero_gradients(source, target):
    logits, predictions = draw()
    logits.requires_grad_()
    sides = torch.full((6,), bool(source)), torch.full((6,), bool(target))
    value = margin_disparity(logits, predictions, *sides)
    value.backward()
    assert value.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))
