from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, nnls

from hf_transfer.functional.quadratic_programs import nonnegative_quadratic, simplex_least


def factor(count, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(width, count, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("count", "width"), [(2, 5), (4, 4), (6, 20), (10, 12)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nonnegative_quadratic_is_least_squares_over_nonnegative_numbers(count, width, seed):
    # 1/2 |A x - b|^2 has Q = A'A and q = -A'b
    a, b = factor(count, width, seed), factor(1, width, seed + 10).squeeze(1)
    found = nonnegative_quadratic(a.T @ a, -(a.T @ b))
    np.testing.assert_allclose(found.numpy(), nnls(a.numpy(), b.numpy())[0], atol=1e-6)


def test_nonnegative_quadratic_meets_the_optimality_conditions_where_the_matrix_is_singular():
    a = factor(8, 3, 5)
    matrix, vector = a.T @ a, factor(1, 8, 6).squeeze(1).abs()
    vector[:4] = 0  # no strict sign at the solution either
    x = nonnegative_quadratic(matrix, vector)
    slope = matrix @ x + vector
    assert (x >= 0).all() and (slope > -1e-7).all() and (x * slope).abs().max() < 1e-7


def test_problems_are_solved_alone_as_in_a_batch():
    a = torch.stack([factor(3, 4, seed) for seed in range(5)])
    matrices, vectors = a.mT @ a, -a.sum(1)
    together = nonnegative_quadratic(matrices, vectors)
    for matrix, vector, found in zip(matrices, vectors, together, strict=True):
        torch.testing.assert_close(nonnegative_quadratic(matrix, vector), found, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("count", "width"), [(2, 2), (3, 8), (5, 7), (8, 30)])
@pytest.mark.parametrize("slope", [0.0, 0.3, 5.0])
def test_simplex_least_against_slsqp(count, width, slope):
    a = factor(count, width, count) / width**0.5
    gram, linear = a.T @ a, factor(1, count, 9).squeeze(1)

    def value(w):
        return float(linear.numpy() @ w + slope * np.sqrt(max(w @ gram.numpy() @ w, 0)))

    start = np.full(count, 1 / count)
    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1}
    best = minimize(value, start, bounds=[(0, 1)] * count, constraints=simplex, options={"ftol": 1e-14})
    found = simplex_least(gram, linear, torch.tensor(slope).double())
    assert found.sum().item() == pytest.approx(1) and (found > 0).all()
    assert value(found.numpy()) <= value(best.x / best.x.sum()) + 1e-9
    np.testing.assert_allclose(found.numpy(), best.x, atol=2e-4)


def test_simplex_least_at_the_kink_where_the_norm_can_be_zero():
    gram = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    found = simplex_least(gram, torch.zeros(2).double(), torch.ones(()).double())
    torch.testing.assert_close(found, torch.full((2,), 0.5).double(), atol=1e-5, rtol=0)
