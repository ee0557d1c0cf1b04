"""Kernel mean matching against a brute-force search for the solution of the quadratic programme."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hf_transfer.features.reweighting.kernel_mean_matching import kernel_mean_matching, solve_bounded
from hf_transfer.features.reweighting.kernels import gaussian, squared_distances


def brute_force(kernel, linear, bound, limits):
    """The best of all stationary points: every weight at 0, at the bound or free, the sum free or at a limit."""
    rows, best = len(linear), (np.inf, None)
    for state in itertools.product("0Bf", repeat=rows):
        free = [i for i in range(rows) if state[i] == "f"]
        fixed = np.array([bound if s == "B" else 0.0 for s in state])
        for total in (None, *limits):
            weights = fixed.copy()
            if free:
                matrix, right = kernel[np.ix_(free, free)], (linear - kernel @ fixed)[free]
                if total is not None:
                    ones = np.ones((len(free), 1))
                    matrix = np.block([[matrix, ones], [ones.T, np.zeros((1, 1))]])
                    right = np.append(right, total - fixed.sum())
                weights[free] = np.linalg.solve(matrix, right)[: len(free)]
            feasible = (weights > -1e-9).all() and (weights < bound + 1e-9).all()
            if feasible and limits[0] - 1e-9 <= weights.sum() <= limits[1] + 1e-9:
                value = weights @ kernel @ weights / 2 - linear @ weights
                best = min(best, (value, weights), key=lambda pair: pair[0])
    return best


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("bound", "limits"),
    [(10.0, (0.0, 50.0)), (1.5, (0.0, 50.0)), (10.0, (0.5, 1.0)), (3.0, (8.0, 9.0)), (1.0, (4, 4))],
)
def test_the_solution_is_that_of_brute_force(seed, bound, limits):
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(4, 2))
    kernel = gaussian(squared_distances(rows, rows), 1.0) + 0.1 * np.eye(4)
    linear = generator.uniform(0, 4, 4)
    value, expected = brute_force(kernel, linear, bound, limits)
    found = solve_bounded(kernel, linear, bound, limits)
    assert found @ kernel @ found / 2 - linear @ found == pytest.approx(value, abs=1e-5)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert (found >= 0).all() and (found <= bound).all()
    assert limits[0] - 1e-4 <= found.sum() <= limits[1] + 1e-4


def test_the_programme_is_that_of_the_paper():
    """kappa has n_s / n_t, and K the whole source: against loops, with unequal numbers of rows."""
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(4, 2)), generator.normal(0.5, 1, size=(7, 2))

    def k(x, y):
        return np.exp(-((x - y) ** 2).sum() / (2 * 1.3**2))

    kernel = np.array([[k(x, y) for y in source] for x in source]) + 0.5 * np.eye(4)
    linear = np.array([4 / 7 * sum(k(x, y) for y in target) for x in source])
    epsilon = (2 - 1) / 2
    expected = brute_force(kernel, linear, 5.0, (4 * (1 - epsilon), 4 * (1 + epsilon)))[1]
    found = kernel_mean_matching(source, target, bandwidth=1.3, bound=5.0, ridge=0.5)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    tight = kernel_mean_matching(source, target, bandwidth=1.3, bound=5.0, ridge=0.5, tolerance=0.0)
    assert tight.sum() == pytest.approx(4, abs=1e-3)


def test_chunks_are_each_matched_to_the_whole_target():
    generator = np.random.default_rng(0)
    source, target = generator.normal(0, 1, (300, 1)), generator.normal(1, 1, (200, 1))
    whole, parts = (kernel_mean_matching(source, target, chunk=chunk) for chunk in (300, 100))
    assert np.corrcoef(whole, parts)[0, 1] > 0.95 and parts.mean() == pytest.approx(whole.mean(), rel=0.1)
    assert np.array_equal(parts, kernel_mean_matching(source, target, chunk=100))


def test_what_is_refused():
    rows = np.zeros((3, 1))
    options = [{"bound": 0}, {"ridge": 0}, {"tolerance": -1}, {"chunk": 1}, {"bandwidth": -1}]
    for option in options:
        with pytest.raises(ValueError, match="were given: no weights would fit.*Give a bandwidth, a bound"):
            kernel_mean_matching(rows, rows, **option)
    with pytest.raises(ValueError, match="3 weights of at most 0.5 cannot have a sum.*no solution.*at least 1"):
        kernel_mean_matching(rows, rows, bound=0.5, tolerance=0.0)
