"""Distances and kernels against loops."""

from __future__ import annotations

import math

import numpy as np

from hf_transfer.features.reweighting.kernels import gaussian, median_distance, squared_distances


def test_against_a_double_loop():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(4, 3)), generator.normal(size=(5, 3))
    squares = squared_distances(first, second)
    kernel = gaussian(squares, 0.7)
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            distance = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
            assert math.isclose(squares[i, j], distance, rel_tol=1e-12)
            assert math.isclose(kernel[i, j], math.exp(-distance / (2 * 0.49)), rel_tol=1e-12)


def test_no_distance_is_negative():
    rows = np.random.default_rng(0).normal(size=(50, 8)) + 1e6
    assert (np.diag(squared_distances(rows, rows)) >= 0).all()


def test_median_of_different_rows():
    assert median_distance(np.array([[0.0], [1.0], [5.0]])) == 4  # of 1, 4, 5
    assert median_distance(np.ones((4, 2))) == 1 == median_distance(np.ones((1, 2)))
    assert median_distance(np.array([[0.0]] * 9 + [[10.0]])) > 0  # most pairs are equal
    many = np.random.default_rng(0).normal(size=(3000, 1))
    assert abs(median_distance(many) - 0.954) < 0.1  # of |N(0, 2)|
    assert median_distance(many, seed=1) == median_distance(many, seed=1)
