"""CORAL and CMD against the definitions written out, closed forms, and their scales."""

from __future__ import annotations

import pytest
import torch

from hf_transfer.functional.moments import central_moment_discrepancy, coral


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(source, target, seed=3):
    """The rows of both in one batch, shuffled, with some of neither, and the two masks."""
    other = 1e3 * randn(2, source.shape[1], seed=8)
    x = torch.cat([source, target, other])
    domain = torch.tensor([0] * len(source) + [1] * len(target) + [2] * 2)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order], (domain[order] == 0).double(), (domain[order] == 1).double()


def naive_covariance(x):
    n, width, x = len(x), x.shape[1], x.tolist()
    mean = [sum(row[c] for row in x) / n for c in range(width)]
    return [
        [sum((r[c] - mean[c]) * (r[d] - mean[d]) for r in x) / (n - 1) for d in range(width)] for c in range(width)
    ]


def naive_coral(source, target):
    width = source.shape[1]
    first, second = naive_covariance(source), naive_covariance(target)
    squares = [(first[c][d] - second[c][d]) ** 2 for c in range(width) for d in range(width)]
    return sum(squares) / (4 * width**2)


def naive_cmd(source, target, moments, span):
    source, target = source.tolist(), target.tolist()
    means = [[sum(column) / len(column) for column in zip(*rows, strict=True)] for rows in (source, target)]

    def moment(rows, mean, k):
        return [sum((row[c] - mean[c]) ** k for row in rows) / len(rows) for c in range(len(mean))]

    def norm(a, b):
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5

    total = norm(*means) / span
    for k in range(2, moments + 1):
        total += norm(moment(source, means[0], k), moment(target, means[1], k)) / span**k
    return total


# more rows than features, and fewer, where the covariances are not formed
SIZES = [(9, 12, 4), (5, 8, 40), (2, 3, 4)]


@pytest.mark.parametrize(("n", "m", "width"), SIZES)
def test_coral_against_the_formula(n, m, width):
    source, target = randn(n, width), 2 * randn(m, width, seed=1) + 3
    assert coral(*mixed(source, target)).item() == pytest.approx(naive_coral(source, target), rel=1e-10)


def test_coral_of_diagonal_covariances():
    """Two features with variances a, b and c, d: ((a - c)^2 + (b - d)^2) / (4 * 2^2)."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    corners = corners * (3 / 4) ** 0.5  # variance 1 over n - 1
    source, target = corners * torch.tensor([1.0, 2.0]), corners * torch.tensor([3.0, 1.0])
    x, masks = torch.cat([source, target]), torch.eye(2, dtype=torch.float64).repeat_interleave(4, 1)
    assert coral(x, *masks).item() == pytest.approx(((1 - 9) ** 2 + (4 - 1) ** 2) / 16, rel=1e-12)


@pytest.mark.parametrize("width", [3, 30])
def test_coral_does_not_see_the_means(width):
    """A program of the field adds the distance of the means."""
    source = randn(8, width)
    assert coral(*mixed(source, source + 7)).item() == pytest.approx(0, abs=1e-12)
    assert coral(*mixed(source, -source + 7)).item() == pytest.approx(0, abs=1e-12)
    assert coral(*mixed(source, 2 * source + 7)).item() > 0.1


@pytest.mark.parametrize("width", [3, 30])
def test_coral_is_never_negative(width):
    """By rows, what cancels may leave a rest below zero."""
    for seed in range(50):
        x = (100 * randn(8, width, seed=seed)).float()
        x = torch.cat([x, x.flip(0)])
        masks = torch.eye(2).repeat_interleave(8, 1)
        value = coral(x, *masks).item()
        assert 0 <= value < 1e-6 * coral(x * (1 + masks[1]).unsqueeze(1), *masks).item()


@pytest.mark.parametrize("width", [4, 40])
def test_coral_of_huge_features_in_single_precision(width):
    source, target = randn(6, width), 2 * randn(7, width, seed=1)
    expected = naive_coral(source, target)
    x, *masks = mixed(source, target)
    assert coral((1e4 * x).float(), *masks).item() == pytest.approx(1e16 * expected, rel=1e-4)
    assert coral((x + 1e4).float(), *masks).item() == pytest.approx(expected, rel=1e-1)
    assert torch.isfinite(coral((1e8 * x).float(), *masks))


@pytest.mark.parametrize("width", [2, 20])
def test_coral_gradient(width):
    x, *masks = mixed(randn(3, width), 2 * randn(4, width, seed=1))
    torch.autograd.gradcheck(lambda x: coral(x, *masks), (x / 100).requires_grad_())


@pytest.mark.parametrize("moments", [1, 2, 5])
@pytest.mark.parametrize("span", [1.0, 2.0])
def test_cmd_against_the_formula(moments, span):
    source, target = torch.rand(5, 4).double(), torch.rand(8, 4).double() ** 2
    x, *masks = mixed(source, target)
    value = central_moment_discrepancy(x, *masks, moments=moments, span=span)
    assert value.item() == pytest.approx(naive_cmd(source, target, moments, span), rel=1e-10)


def test_cmd_of_shifted_rows_is_the_shift():
    source = randn(6, 4)
    x, *masks = mixed(source, source + torch.tensor([0.0, 3.0, 0.0, 4.0]))
    assert central_moment_discrepancy(x, *masks, span=2.0).item() == pytest.approx(2.5, abs=1e-9)


def test_cmd_of_equal_means_and_other_spreads():
    """Zero or 1 against always 1 / 2: even moments are 2^-k, odd ones zero."""
    x = torch.tensor([[0.0], [1.0], [0.5], [0.5], [0.5]], dtype=torch.float64)
    masks = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
    assert central_moment_discrepancy(x, *masks, moments=5).item() == pytest.approx(1 / 4 + 1 / 16, rel=1e-12)


def test_cmd_of_one_row_compares_means_alone():
    source, target = randn(1, 3), randn(5, 3, seed=1)
    x, *masks = mixed(source, target)
    expected = (source[0] - target.mean(0)).norm().item()
    assert central_moment_discrepancy(x, *masks).item() == pytest.approx(expected, rel=1e-9)


def test_cmd_gradient():
    x, *masks = mixed(randn(3, 2), randn(4, 2, seed=1) + 1)
    torch.autograd.gradcheck(lambda x: central_moment_discrepancy(x, *masks), (x / 100).requires_grad_())


def test_gradient_is_zero_where_the_moments_are_equal():
    """The root has no derivative there: a plain norm gives NaN through its square."""
    for value in (0.0, 0.1, -1e4):
        x = torch.full((5, 3), value, requires_grad=True)
        masks = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
        for loss in (central_moment_discrepancy(x, *masks), coral(x, *masks)):
            (gradient,) = torch.autograd.grad(loss, x)
            assert loss.item() == 0 and not gradient.any()


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("function", [coral, central_moment_discrepancy])
@pytest.mark.parametrize("width", [2, 20])
def test_empty_sets_are_finite(function, rows, width):
    x = randn(5, width).requires_grad_()
    few = (torch.arange(5) < rows).double()
    for masks in ((few, 1 - few), (1 - few, few), (few, few)):
        loss = function(x, *masks)
        (gradient,) = torch.autograd.grad(loss, x)
        assert loss.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("function", [coral, central_moment_discrepancy])
def test_half_precision_is_computed_in_single(function):
    x = randn(6, 4).bfloat16()
    masks = torch.eye(2).repeat_interleave(3, 1)
    value = function(x, *masks)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), function(x.double(), *masks), rtol=1e-4, atol=1e-6)
