"""Distances from a starting point against plain autograd, in float64."""

from __future__ import annotations

import pytest
import torch

from hf_transfer.functional.starting_point import compact, low_rank_squared_norm, squared_distance


@pytest.mark.parametrize("shape", [(1,), (3, 4), (2, 3, 2, 2)])
def test_squared_distance_and_gradient_are_autograds(shape):
    parameter = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(shape, dtype=torch.float64)
    value = squared_distance(parameter, reference)
    (ours,) = torch.autograd.grad(3 * value, parameter)
    expected = sum(
        (p - r) ** 2 for p, r in zip(parameter.flatten().tolist(), reference.flatten().tolist(), strict=True)
    )
    assert value.item() == pytest.approx(expected, rel=1e-12)
    (theirs,) = torch.autograd.grad(3 * (parameter - reference).square().sum(), parameter)
    torch.testing.assert_close(ours, theirs)


def test_gradcheck():
    parameter = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: squared_distance(p, reference), parameter)


def test_nothing_but_the_two_tensors_is_kept_for_backward():
    parameter, reference = torch.randn(8, requires_grad=True), torch.randn(8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        squared_distance(parameter, reference)
    assert set(kept) <= {parameter.data_ptr(), reference.data_ptr()}


def test_bfloat16_parameters_are_compared_in_float32_and_get_gradients_of_their_type():
    parameter = torch.full((1000,), 1.0, dtype=torch.bfloat16, requires_grad=True)
    value = squared_distance(parameter, torch.full((1000,), 0.9, dtype=torch.float32))
    assert value.dtype == torch.float32 and value.item() == pytest.approx(10.0, rel=1e-4)
    value.backward()
    assert parameter.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_norm_is_the_norm_of_the_product(rank):
    down = torch.randn(rank, 7, dtype=torch.float64, requires_grad=True)
    up = torch.randn(5, rank, dtype=torch.float64, requires_grad=True)
    value = low_rank_squared_norm(down, up)
    product = (up @ down).square().sum()
    torch.testing.assert_close(value, product)
    for ours, theirs in zip(
        torch.autograd.grad(value, (down, up)), torch.autograd.grad(product, (down, up)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_compact_halves_only_what_loses_nothing():
    published = torch.randn(10).bfloat16().float()
    assert compact(published).dtype == torch.bfloat16 and torch.equal(compact(published).float(), published)
    exact = torch.tensor([1.0 + 2**-20])
    assert compact(exact) is exact
