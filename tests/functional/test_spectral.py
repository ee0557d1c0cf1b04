"""The smallest singular values against an SVD, and why they do not come from the Gram matrix."""

from __future__ import annotations

import pytest
import torch

from hf_transfer.functional.spectral import smallest_squared_singular_values


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
    assert smallest_squared_singular_values(features).isnan()
