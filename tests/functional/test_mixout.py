"""Mixout against the paper's formula entry by entry, its expectation by enumeration, and what it keeps."""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import pytest
import torch

from hf_transfer.functional.mixout import mixout, rebuilt_for_backward


def papers_formula(weight: float, start: float, replaced: int, probability: float) -> float:
    return ((1 - replaced) * weight + replaced * start - probability * start) / (1 - probability)


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 2, 2)])
def test_each_entry_is_the_papers(shape, probability):
    weight, start = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    kept = torch.rand(shape) > probability
    mixed = mixout(weight, start, kept, probability=probability)
    expected = [
        papers_formula(w, u, 1 - k, probability)
        for w, u, k in zip(
            weight.flatten().tolist(), start.flatten().tolist(), kept.int().flatten().tolist(), strict=True
        )
    ]
    torch.testing.assert_close(mixed.flatten(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("probability", [0.2, 0.75])
def test_the_expectation_over_all_masks_is_the_weight(probability):
    weight, start = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    mean = torch.zeros(3, dtype=torch.float64)
    for mask in itertools.product([False, True], repeat=3):
        chance = 1.0
        for kept in mask:
            chance *= 1 - probability if kept else probability
        mean += chance * mixout(weight, start, torch.tensor(mask), probability=probability)
    torch.testing.assert_close(mean, weight)


def test_replaced_entries_are_the_start_bit_for_bit_and_at_the_start_nothing_changes():
    weight, start = torch.randn(50), torch.randn(50)
    kept = torch.rand(50) > 0.5
    mixed = mixout(weight, start, kept, probability=0.5)
    assert torch.equal(mixed[~kept], start[~kept]) and not torch.equal(mixed[kept], weight[kept])
    assert torch.equal(mixout(start, start.clone(), kept, probability=0.9), start)


def test_with_a_start_of_zero_it_is_inverted_dropout():
    weight = torch.randn(40, dtype=torch.float64)
    kept = torch.rand(40) > 0.7
    torch.testing.assert_close(mixout(weight, torch.zeros(40), kept, probability=0.7), weight * kept / 0.3)


def test_gradcheck_and_the_gradients_closed_form():
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    start, kept = torch.randn(3, 4, dtype=torch.float64), torch.rand(3, 4) > 0.5
    assert torch.autograd.gradcheck(lambda w: mixout(w, start, kept, probability=0.8), weight)
    (gradient,) = torch.autograd.grad(mixout(weight, start, kept, probability=0.8).sum(), weight)
    torch.testing.assert_close(gradient, kept / 0.2, check_dtype=False)


def test_half_precision_is_computed_in_single_and_rounded_once():
    weight = torch.randn(64).bfloat16().requires_grad_()
    start, kept = torch.randn(64).bfloat16(), torch.rand(64) > 0.5
    mixed = mixout(weight, start, kept, probability=0.6)
    exact = mixout(weight.detach().double(), start.double(), kept, probability=0.6)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, exact.bfloat16())
    mixed.sum().backward()
    assert weight.grad.dtype == torch.bfloat16


def test_the_result_may_have_another_type_than_the_weight():
    weight = torch.randn(8, requires_grad=True)
    mixed = mixout(weight, torch.zeros(8), torch.ones(8, dtype=torch.bool), probability=0.5, dtype=torch.bfloat16)
    assert mixed.dtype == torch.bfloat16
    mixed.float().sum().backward()
    assert torch.equal(weight.grad, torch.full((8,), 2.0))


def test_a_start_in_bfloat16_is_used_exactly():
    weight, start = torch.randn(8), torch.randn(8).bfloat16()
    kept = torch.rand(8) > 0.5
    assert torch.equal(
        mixout(weight, start, kept, probability=0.5), mixout(weight, start.float(), kept, probability=0.5)
    )


def test_only_the_mask_is_kept_for_the_backward():
    weight, start, kept = torch.randn(8, requires_grad=True), torch.randn(8), torch.rand(8) > 0.5
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        mixout(weight, start, kept, probability=0.5)
    assert [tensor.data_ptr() for tensor in saved] == [kept.data_ptr()]


LAYERS = {
    "linear": (torch.nn.Linear(3, 4), (2, 3)),
    "linear without bias": (torch.nn.Linear(3, 4, bias=False), (2, 5, 3)),
    "convolution": (torch.nn.Conv2d(3, 4, 2), (2, 3, 5, 5)),
    "grouped": (torch.nn.Conv1d(4, 4, 3, groups=2, stride=2), (2, 4, 9)),
    "transposed": (torch.nn.ConvTranspose2d(3, 4, 2), (2, 3, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_rebuilt_weight_gives_the_gradients_of_a_kept_one(name):
    layer, shape = LAYERS[name]
    layer = layer.double()
    weight = layer.weight.detach().clone().requires_grad_()
    start, kept = torch.randn_like(weight), torch.rand(weight.shape) > 0.5
    values = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    results = []
    for rebuild in (False, True):
        mixed = mixout(weight, start, kept, probability=0.5)
        if rebuild:
            with rebuilt_for_backward(mixed, weight, start, kept, probability=0.5):
                out = torch.func.functional_call(layer, {"weight": mixed}, values)
        else:
            out = torch.func.functional_call(layer, {"weight": mixed}, values)
        results.append((out, *torch.autograd.grad(out.square().sum(), (weight, values))))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_the_mixed_values_themselves_are_not_kept():
    """Overwriting them after the forward is an error where they are kept, and harmless where they are not."""
    weight, values = torch.randn(4, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    start, kept = torch.zeros(4, 4), torch.rand(4, 4) > 0.5
    for rebuild in (False, True):
        mixed = mixout(weight, start, kept, probability=0.5)
        with rebuilt_for_backward(mixed, weight, start, kept, probability=0.5) if rebuild else nullcontext():
            out = torch.nn.functional.linear(values, mixed)
        expected = torch.ones(2, 4) @ mixed.detach().clone()
        mixed.detach().fill_(float("nan"))
        if rebuild:
            (gradient,) = torch.autograd.grad(out.sum(), values)
            torch.testing.assert_close(gradient, expected)
        else:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                out.sum().backward()


def test_a_weight_changed_before_the_backward_is_refused():
    weight = torch.randn(2, 2, requires_grad=True)
    start, kept = torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)
    mixed = mixout(weight, start, kept, probability=0.5)
    with rebuilt_for_backward(mixed, weight, start, kept, probability=0.5):
        loss = (torch.randn(1, 2, requires_grad=True) @ mixed).sum()
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match=r"changed in place since the forward.*Call `backward` before"):
        loss.backward()


def test_an_input_changed_before_the_backward_is_refused_as_autograd_would():
    weight = torch.randn(2, 2, requires_grad=True)
    start, kept = torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)
    mixed = mixout(weight, start, kept, probability=0.5)
    values = torch.randn(1, 2)
    with rebuilt_for_backward(mixed, weight, start, kept, probability=0.5):
        loss = (values @ mixed).sum()
    values.add_(1)
    with pytest.raises(RuntimeError, match="changed in place since the forward"):
        loss.backward()
