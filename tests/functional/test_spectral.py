"""Singular values against matrices that have given ones, and why they do not come from the Gram matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_transfer.functional.spectral import (
    batch_nuclear_norm,
    largest_squared_singular_values,
    nuclear_norm,
    smallest_squared_singular_values,
)


def with_singular_values(values, rows: int, width: int) -> torch.Tensor:
    """A float64 matrix that has the given singular values."""
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(rows, rows, dtype=torch.float64, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))
    values = torch.as_tensor(values, dtype=torch.float64)
    return left[:, : len(values)] * values @ right[:, : len(values)].mT


@pytest.mark.parametrize(("rows", "width"), [(4, 9), (9, 4), (4, 4)])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_value_is_that_of_the_singular_values_put_in(rows, width, k):
    values = [5.0, 3.0, 2.0, 0.5]
    features = with_singular_values(values, rows, width)
    expected = sum(value**2 for value in values[4 - k :])
    assert smallest_squared_singular_values(features, k).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("rows", "width"), [(3, 5), (5, 3)])
def test_gradient_against_finite_differences(rows, width):
    features = with_singular_values([3.0, 2.0, 1.0], rows, width).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: smallest_squared_singular_values(x, 2), features)


def test_gradient_is_the_features_along_the_weakest_direction():
    features = with_singular_values([3.0, 2.0, 1.0], 3, 5).requires_grad_()
    smallest_squared_singular_values(features).backward()
    left, values, right = torch.linalg.svd(features.detach(), full_matrices=False)
    torch.testing.assert_close(features.grad, 2 * values[-1] * torch.outer(left[:, -1], right[-1]))


@pytest.mark.parametrize("k", [4, 100])
def test_the_largest_is_never_among_them(k):
    features = with_singular_values([5.0, 3.0, 2.0, 0.5], 4, 9)
    assert smallest_squared_singular_values(features, k).item() == pytest.approx(9 + 4 + 0.25)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
def test_one_row_or_column_is_an_exact_zero_with_a_graph(shape):
    features = torch.randn(shape, requires_grad=True)
    value = smallest_squared_singular_values(features)
    assert value.item() == 0
    value.backward()
    assert torch.equal(features.grad, torch.zeros(shape))


@pytest.mark.parametrize(
    ("features", "value"),
    [
        (torch.eye(4, 8), 2.0),  # all singular values are 1
        (torch.ones(4, 8), 0.0),  # constant features: all but one are 0
        (torch.zeros(4, 8), 0.0),
        (torch.eye(2, 8).repeat(2, 1), 0.0),  # every row twice
    ],
)
def test_repeated_singular_values_have_a_finite_gradient(features, value):
    features = features.clone().requires_grad_()
    total = smallest_squared_singular_values(features, 2)
    assert total.item() == pytest.approx(value, abs=1e-10)
    total.backward()
    assert features.grad.isfinite().all()
    assert features.grad.norm() <= 2 * 2**0.5 + 1e-4  # 2 sigma for each of two directions


@pytest.mark.parametrize(("ratio", "off"), [(1e-4, 1e-3), (1e-5, 1.0)])
def test_the_gram_matrix_would_lose_the_value_in_float32(ratio, off):
    values = [100.0] * 15 + [100.0 * ratio]
    features = with_singular_values(values, 16, 64).float()
    exact = (100 * ratio) ** 2
    by_gram = torch.linalg.eigvalsh(features @ features.mT)[0].item()
    ours = smallest_squared_singular_values(features).item()
    assert abs(ours - exact) / exact < 0.05
    assert abs(by_gram - exact) / exact > off


def test_the_gram_matrix_would_be_negative_for_constant_features():
    features = torch.full((6, 32), 1.7) * torch.linspace(0.5, 2, 32)
    assert torch.linalg.eigvalsh(features @ features.mT)[0] < 0
    assert smallest_squared_singular_values(features) >= 0


@pytest.mark.parametrize("overflow", [float("inf"), float("nan")])
def test_an_overflow_makes_the_value_no_number_and_not_an_error(overflow, monkeypatch):
    decompose = torch.linalg.svdvals

    def strict(features):
        assert features.isfinite().all()  # CUDA raises otherwise
        return decompose(features)

    monkeypatch.setattr(torch.linalg, "svdvals", strict)
    features = torch.eye(3, 4)
    features[1, 2] = overflow
    for term in (smallest_squared_singular_values, largest_squared_singular_values, nuclear_norm, batch_nuclear_norm):
        assert term(features).isnan()


@pytest.mark.parametrize(("rows", "width"), [(4, 9), (9, 4), (4, 4)])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 100])
def test_largest_are_those_of_the_singular_values_put_in(rows, width, k):
    values = [5.0, 3.0, 2.0, 0.5]
    features = with_singular_values(values, rows, width)
    expected = sum(value**2 for value in values[:k])
    assert largest_squared_singular_values(features, k).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2])
def test_gradient_of_the_largest_against_finite_differences(k):
    features = with_singular_values([3.0, 2.0, 1.0], 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: largest_squared_singular_values(x, k), features)


def test_a_step_shrinks_the_largest_and_leaves_the_others():
    features = with_singular_values([3.0, 2.0, 1.0], 4, 5).requires_grad_()
    largest_squared_singular_values(features).backward()
    after = torch.linalg.svdvals(features.detach() - 0.1 * features.grad)
    assert sorted(after.tolist())[-3:] == pytest.approx([1.0, 2.0, 2.4])


@pytest.mark.parametrize("term", [largest_squared_singular_values, nuclear_norm])
def test_rows_of_zeros_change_nothing(term):
    features = with_singular_values([3.0, 2.0, 1.0], 3, 5).requires_grad_()
    padded = torch.cat([features[:1], torch.zeros(2, 5), features[1:], torch.zeros(1, 5)])
    assert term(padded).item() == pytest.approx(term(features).item(), rel=1e-12)
    (alone,) = torch.autograd.grad(term(features), features)
    (among,) = torch.autograd.grad(term(padded), features)
    torch.testing.assert_close(among, alone)


@pytest.mark.parametrize("term", [largest_squared_singular_values, nuclear_norm])
def test_several_matrices_at_once(term):
    stack = torch.stack([with_singular_values([5.0, 3.0, 2.0], 3, 4), with_singular_values([7.0, 1.0], 3, 4)])
    assert term(stack).tolist() == pytest.approx([term(matrix).item() for matrix in stack])


@pytest.mark.parametrize(("rows", "width"), [(4, 9), (9, 4), (4, 4)])
def test_nuclear_norm_is_the_sum_of_the_singular_values_put_in(rows, width):
    assert nuclear_norm(with_singular_values([5.0, 3.0, 2.0, 0.5], rows, width)).item() == pytest.approx(10.5)


def test_gradient_of_the_nuclear_norm_is_that_of_the_theorem():
    matrix = with_singular_values([3.0, 2.0, 1.0], 3, 5).requires_grad_()
    nuclear_norm(matrix).backward()
    left, _, right = torch.linalg.svd(matrix.detach(), full_matrices=False)
    torch.testing.assert_close(matrix.grad, left @ right)
    assert torch.autograd.gradcheck(nuclear_norm, matrix)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "width"), [(6, 4), (4, 6)])
def test_without_full_rank_the_shortest_subgradient_is_taken(rows, width, dtype):
    """Singular values that are zero but for rounding would add directions of length 1 made of that rounding."""
    matrix = with_singular_values([2.0, 1.0], rows, width).to(dtype).requires_grad_()
    value = nuclear_norm(matrix)
    assert value.item() == pytest.approx(3.0)
    value.backward()
    left, _, right = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    torch.testing.assert_close(matrix.grad.double(), left[:, :2] @ right[:2], atol=1e-5, rtol=0)
    (plain,) = torch.autograd.grad(torch.linalg.svdvals(matrix).sum(), matrix)
    assert (plain - matrix.grad).norm() > 1  # what a bare sum of singular values would add


@pytest.mark.parametrize(
    ("matrix", "value"),
    [
        (torch.eye(4, 8), 4.0),
        (torch.zeros(4, 8), 0.0),
        (torch.full((4, 2), 0.5), 2**0.5),
        (torch.eye(3)[[0, 0, 1]], None),
    ],
)
def test_nuclear_norm_of_repeated_and_zero_singular_values_has_a_finite_gradient(matrix, value):
    matrix = matrix.clone().requires_grad_()
    total = nuclear_norm(matrix)
    assert total.item() == pytest.approx(1 + 2**0.5 if value is None else value, rel=1e-6)
    total.backward()
    assert matrix.grad.isfinite().all() and torch.linalg.matrix_norm(matrix.grad, 2) < 1 + 1e-5


def test_batch_nuclear_norm_against_an_svd_of_the_predictions():
    logits = torch.randn(7, 4, dtype=torch.float64)
    p = np.exp(logits.numpy())
    p /= p.sum(1, keepdims=True)
    expected = -np.linalg.svd(p)[1].sum() / 7
    assert batch_nuclear_norm(logits).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("rows", "classes"), [(3, 3), (6, 3), (2, 5)])
def test_bounds_of_the_batch_nuclear_norm(rows, classes):
    certain = 1e4 * torch.eye(classes)[torch.arange(rows) % classes]
    lowest = -((min(rows, classes) / rows) ** 0.5)
    assert batch_nuclear_norm(certain).item() == pytest.approx(lowest, rel=1e-5)
    assert batch_nuclear_norm(0 * certain).item() == pytest.approx(-((rows * classes) ** -0.5), rel=1e-5)
    collapsed = batch_nuclear_norm(certain[:1].expand(rows, classes)).item()
    assert collapsed == pytest.approx(-(rows**-0.5), rel=1e-5)
    assert lowest < collapsed


@pytest.mark.parametrize("junk", [0.3, 1e4, float("nan"), float("inf")])
def test_batch_nuclear_norm_of_rows_that_count(junk):
    logits = torch.randn(6, 3)
    logits[1] = junk
    logits.requires_grad_()
    counted = torch.tensor([True, False, True, True, False, True])
    value = batch_nuclear_norm(logits, counted)
    alone = logits.detach()[counted].requires_grad_()
    expected = batch_nuclear_norm(alone)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    expected.backward()
    torch.testing.assert_close(logits.grad[counted], alone.grad, atol=1e-5, rtol=1e-4)
    assert not logits.grad[~counted].any()


def test_batch_nuclear_norm_of_no_row_is_an_exact_zero_with_a_graph():
    logits = torch.randn(4, 3, requires_grad=True)
    value = batch_nuclear_norm(logits, torch.zeros(4, dtype=torch.bool))
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros(4, 3))


def test_thousand_batches_have_finite_values_and_gradients():
    generator = torch.Generator().manual_seed(0)
    for trial in range(1000):
        rows, width = (int(torch.randint(1, 9, (1,), generator=generator)) for _ in range(2))
        scale = (0.0, 1e-10, 1.0, 1e4)[trial % 4]
        x = scale * torch.randn(rows, width, generator=generator)
        if trial % 5 == 0:
            x = x[:1].repeat(rows, 1)
        x.requires_grad_()
        counted = torch.rand(rows, generator=generator) < (0.0, 0.3, 1.0)[trial % 3]
        masked = counted.unsqueeze(-1) * x
        values = torch.stack([batch_nuclear_norm(x, counted), largest_squared_singular_values(masked, 2)])
        values.sum().backward()
        assert values.isfinite().all() and x.grad.isfinite().all() and not x.grad[~counted].any(), trial
        assert -1 - 1e-5 <= values[0] <= 0 <= values[1], trial
