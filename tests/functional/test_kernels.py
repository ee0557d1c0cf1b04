"""Distances and Gaussian kernels against double loops, and the digits they keep."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.kernels import gaussian_kernels, mean_distance, squared_distances


def rows(count=7, width=5, seed=0, dtype=torch.float64):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def naive(x):
    x = x.double().tolist()
    return torch.tensor(
        [[sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for q in x] for p in x], dtype=torch.float64
    )


def relative_error(x) -> float:
    """Of the distances, to the mean of them: what a kernel whose bandwidth is that mean sees."""
    exact = naive(x)
    return ((squared_distances(x).double() - exact).abs().max() / exact.mean()).item()


def test_distances_are_those_of_double_loops():
    x = rows()
    torch.testing.assert_close(squared_distances(x), naive(x), rtol=1e-12, atol=1e-12)


def test_symmetric_not_negative_and_zero_on_the_diagonal():
    x = rows(40, 30, dtype=torch.float32)
    x[3] = x[17]  # two equal rows
    distances = squared_distances(x)
    assert (distances >= 0).all() and not distances.diagonal().any()
    torch.testing.assert_close(distances, distances.T)


@pytest.mark.parametrize("value", [0.1, 1e4, -3e8])
def test_constant_rows_are_at_distance_exactly_zero(value):
    """The mean of equal numbers is not always that number: taking it off leaves rests that a kernel would blow up."""
    assert not squared_distances(torch.full((7, 768), value)).any()


def test_rows_far_from_the_origin_keep_their_digits():
    """The product of the rows as they are has none left: each is 1e6 from the origin and 1 from the next."""
    x = (rows(20, 64) + 1e5).float()
    assert relative_error(x) < 1e-6
    norms = x.square().sum(1)
    plain = norms.unsqueeze(1) + norms - 2 * x @ x.T
    assert (plain.double() - naive(x)).abs().max() / naive(x).mean() > 1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4, 1e8])
def test_scale_costs_no_digits(scale):
    assert relative_error((scale * rows(20, 64)).float()) < 1e-6


def test_one_row_far_away():
    x = rows(64, 32, dtype=torch.float32)
    x[5] = 1e4
    assert relative_error(x) < 1e-4


def test_half_precision_is_computed_in_single():
    x = rows(5, 4, dtype=torch.bfloat16)
    assert squared_distances(x).dtype == torch.float32
    torch.testing.assert_close(squared_distances(x).double(), naive(x), rtol=1e-5, atol=1e-5)


def test_gradient_of_the_distances():
    x = rows(5, 3).requires_grad_()
    weights = rows(5, 5, seed=1)  # not symmetric: each entry has a derivative of its own
    torch.autograd.gradcheck(lambda x: squared_distances(x) * weights, x)
    torch.autograd.gradgradcheck(lambda x: (squared_distances(x) * weights).square(), x)


def test_gradient_where_rows_are_equal_is_zero():
    x = torch.full((4, 3), 0.1, requires_grad=True)
    squared_distances(x).sum().backward()
    assert not x.grad.any()


def test_mean_distance_counts_pairs_of_different_rows():
    x, counted = rows(6), torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    chosen = [0, 2, 3, 5]
    expected = sum(naive(x)[i, j].item() for i in chosen for j in chosen if i != j) / 12
    assert mean_distance(squared_distances(x), counted, x).item() == pytest.approx(expected, rel=1e-12)


def test_mean_distance_is_a_constant_for_the_gradient():
    x = rows().requires_grad_()
    assert not mean_distance(squared_distances(x), torch.ones(7), x).requires_grad


@pytest.mark.parametrize("counted", [0, 1, 2])
def test_mean_distance_is_positive_without_pairs_or_distances(counted):
    x = torch.zeros(3, 4)
    middle = mean_distance(squared_distances(x), (torch.arange(3) < counted).float(), x)
    assert middle > 0 and torch.isfinite(1 / middle)


def test_rounding_of_equal_rows_is_no_distance():
    """Rows that differ in the last digit only: a bandwidth of that size would make a distribution of the rounding."""
    x = torch.full((8, 16), 1000.0)
    x[::2] = torch.nextafter(x[::2], torch.tensor(torch.inf))
    distances = squared_distances(x)
    assert (distances > 0).any()
    assert gaussian_kernels(distances, mean_distance(distances, torch.ones(8), x)).min() > 0.7
    y = x.clone().requires_grad_()
    distances = squared_distances(y)
    gaussian_kernels(distances, mean_distance(distances, torch.ones(8), y))[:4, 4:].sum().backward()
    assert y.grad.abs().max() < 1e5  # one over the last digit is 16384


@pytest.mark.parametrize(("count", "factor"), [(1, 2.0), (2, 2.0), (5, 2.0), (4, 3.0)])
def test_kernels_against_the_sum_written_out(count, factor):
    x = rows()
    kernels = gaussian_kernels(squared_distances(x), 3.0, count, factor)
    for i in range(7):
        for j in range(7):
            d = naive(x)[i, j].item()
            terms = [math.exp(-d / (3.0 * factor ** (u - count // 2))) for u in range(count)]
            assert kernels[i, j].item() == pytest.approx(sum(terms) / count, rel=1e-10)


def test_five_kernels_have_the_usual_bandwidths():
    """Two ways of writing the field's default: widths m / 4 to 4 m, or 2 sigma^2 with sigma^2 from m / 8 to 2 m."""
    d, m = 1.7, 0.9
    with_sigma = sum(math.exp(-d / (2 * 2**k * m)) for k in range(-3, 2)) / 5
    assert gaussian_kernels(torch.tensor(d, dtype=torch.float64), m).item() == pytest.approx(with_sigma, rel=1e-12)


def test_kernels_of_huge_distances_are_zero_not_nan():
    distances = torch.tensor([0.0, 1e30, 3e38], requires_grad=True)
    kernels = gaussian_kernels(distances, 1e-3)
    kernels.sum().backward()
    assert kernels.tolist() == [1.0, 0.0, 0.0] and distances.grad.isfinite().all()
