"""The contrast of two models against loops over rows and keys, its gradient, and rows without negatives."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.contrastive import unit
from hf_transfer.functional.contrastive_distillation import contrastive_distillation


def data(rows=4, keys=6, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(count, width, dtype=torch.float64, generator=generator) for count in (rows, rows, keys, keys)]
    candidates = torch.rand(rows, keys, generator=generator) < 0.6
    return *(unit(one) for one in draw), candidates


def naive(s, t, s_keys, t_keys, candidates, temperature):
    total = 0.0
    for i in range(len(s)):
        positive = math.exp((s[i] @ t[i]).item() / temperature)
        for row, keys in ((s[i], t_keys), (t[i], s_keys)):
            negatives = [math.exp((row @ keys[j]).item() / temperature) for j in range(len(keys)) if candidates[i, j]]
            total -= math.log(positive / (positive + sum(negatives)))
    return total / len(s)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_value_against_loops(temperature):
    given = data()
    expected = naive(*given, temperature)
    assert contrastive_distillation(*given, temperature).item() == pytest.approx(expected, rel=1e-7)


def test_gradient_in_float64_into_both_sides_and_into_no_key():
    s, t, s_keys, t_keys, candidates = data()
    for x in (s, t, s_keys, t_keys):
        x.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: contrastive_distillation(s, t, s_keys, t_keys, candidates), (s, t))
    contrastive_distillation(s, t, s_keys, t_keys, candidates).backward()
    assert s.grad.any() and t.grad.any() and s_keys.grad is None and t_keys.grad is None


def test_gradient_draws_the_pair_together_and_pushes_negatives_away():
    s = torch.tensor([[0.0, 1.0]], requires_grad=True)
    t, negative = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    contrastive_distillation(s, t, negative, negative, torch.tensor([[True]]), 1.0).backward()
    assert s.grad[0, 0] < 0 and s.grad[0, 1] == 0


def test_without_a_negative_it_is_an_exact_zero_with_a_graph():
    s, t, s_keys, t_keys, _ = data(2, 3)
    s.requires_grad_()
    value = contrastive_distillation(s, t, s_keys, t_keys, torch.zeros(2, 3, dtype=torch.bool))
    value.backward()
    assert value.item() == 0 and s.grad is not None and not s.grad.any()


def test_rows_that_cannot_be_told_apart_pay_for_every_negative():
    same = torch.ones(3, 1)
    value = contrastive_distillation(same, same, same, same, ~torch.eye(3, dtype=torch.bool))
    assert value.item() == pytest.approx(2 * math.log(3), rel=1e-6)


def test_is_close_to_zero_for_opposite_rows():
    rows = torch.tensor([[1.0], [-1.0]])
    value = contrastive_distillation(rows, rows, rows, rows, ~torch.eye(2, dtype=torch.bool))
    assert 0 <= value.item() < 1e-11


@pytest.mark.parametrize("temperature", [1e-4, 0.07, 1e4])
def test_extreme_temperatures_are_finite(temperature):
    s, t, s_keys, t_keys, candidates = (x.float() if x.is_floating_point() else x for x in data())
    s.requires_grad_()
    value = contrastive_distillation(s, -t, s_keys, t_keys, candidates, temperature)
    value.backward()
    assert value.isfinite() and value >= 0 and s.grad.isfinite().all()
