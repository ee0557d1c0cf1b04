"""Correlation of predictions against NumPy's and against loops, where it is undefined, and what it is blind to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_transfer.functional.correlation import inter_class, intra_class


def double(*shape, grad=False):
    return torch.randn(*shape, dtype=torch.float64).requires_grad_(grad)


def distance(first, second):
    """One minus Pearson's correlation, written out."""
    n = len(first)
    a, b = ([value - sum(values) / n for value in values] for values in (first, second))
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - product / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def test_between_classes_against_a_loop():
    predictions, reference = double(5, 4), double(5, 4)
    expected = sum(distance(predictions[i].tolist(), reference[i].tolist()) for i in range(5)) / 5
    assert inter_class(predictions, reference).item() == pytest.approx(expected, rel=1e-12)
    by_numpy = np.mean([1 - np.corrcoef(predictions[i], reference[i])[0, 1] for i in range(5)])
    assert expected == pytest.approx(by_numpy, rel=1e-12)


def test_within_a_class_against_a_loop():
    predictions, reference = double(5, 4), double(5, 4)
    expected = sum(distance(predictions[:, c].tolist(), reference[:, c].tolist()) for c in range(4)) / 4
    assert intra_class(predictions, reference).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("function", [inter_class, intra_class])
def test_rows_left_out_are_as_if_they_were_not_there(function):
    predictions, reference = double(6, 4, grad=True), double(6, 4)
    mask = torch.tensor([1, 0, 1, 1, 0, 1])
    value = function(predictions, reference, mask)
    torch.testing.assert_close(value, function(predictions[mask == 1], reference[mask == 1]))
    value.backward()
    assert not predictions.grad[mask == 0].any() and predictions.grad[mask == 1].all()
    nothing = function(predictions, reference, torch.zeros(6))
    predictions.grad = None
    nothing.backward()
    assert nothing.item() == 0 and not predictions.grad.any()


@pytest.mark.parametrize("function", [inter_class, intra_class])
def test_gradcheck_and_ends_of_the_range(function):
    predictions, reference = double(4, 3, grad=True), double(4, 3)
    assert torch.autograd.gradcheck(lambda p: function(p, reference), predictions)
    assert function(predictions, predictions.detach()).item() == 0
    assert function(predictions, 5 * predictions.detach() + 2).item() == pytest.approx(0, abs=1e-14)
    assert function(predictions, -predictions.detach()).item() == pytest.approx(2, rel=1e-12)
    assert not torch.autograd.grad(function(predictions, predictions.detach()), predictions)[0].abs().gt(1e-14).any()


def test_one_row_has_nothing_within_a_class():
    predictions = double(1, 4, grad=True)
    value = intra_class(predictions, double(1, 4))
    value.backward()
    assert value.item() == 0 and not predictions.grad.any()


@pytest.mark.parametrize("function", [inter_class, intra_class])
@pytest.mark.parametrize("constant", ["predictions", "reference", "both"])
def test_constant_vectors_add_zero(function, constant):
    across = function is inter_class
    predictions, reference = torch.randn(3, 3), torch.randn(3, 3)
    for name, tensor in (("predictions", predictions), ("reference", reference)):
        if constant in (name, "both"):
            (tensor if across else tensor.T)[0] = 1 / 3
    predictions.requires_grad_()
    value = function(predictions, reference)
    value.backward()
    rest = slice(1, None)
    pick = (lambda x: x[rest]) if across else (lambda x: x[:, rest])
    assert value.item() == pytest.approx(2 / 3 * function(pick(predictions), pick(reference)).item(), rel=1e-5)
    assert predictions.grad.isfinite().all() and not (predictions.grad if across else predictions.grad.T)[0].any()


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e-8, 1.0, 1e4])
def test_very_small_probabilities_are_finite(scale):
    predictions = (scale * torch.rand(4, 3)).requires_grad_()
    for function in (inter_class, intra_class):
        value = function(predictions, scale * torch.rand(4, 3))
        (gradient,) = torch.autograd.grad(value, predictions)
        assert value.isfinite() and gradient.isfinite().all()
    assert scale < 1e-10 or value > 0


def test_two_classes_correlate_by_sign_alone():
    """Why the objective warns: rows of two classes send no gradient."""
    yes = torch.rand(6, 1, dtype=torch.float64)
    predictions = torch.cat([yes, 1 - yes], 1).requires_grad_()
    value = inter_class(predictions, torch.softmax(double(6, 2), -1))
    (gradient,) = torch.autograd.grad(value, predictions)
    assert value.item() == pytest.approx(round(3 * value.item()) / 3) and gradient.abs().max() < 1e-12


def test_half_precision_is_computed_in_full():
    predictions, reference = torch.rand(4, 3).bfloat16(), torch.rand(4, 3).bfloat16()
    for function in (inter_class, intra_class):
        torch.testing.assert_close(function(predictions, reference), function(predictions.float(), reference.float()))
