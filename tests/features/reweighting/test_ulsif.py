"""uLSIF: the closed form by loops, and leaving one out by fitting again."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.features.reweighting.kernels import gaussian, squared_distances
from hf_transfer.features.reweighting.ulsif import coefficients, left_out_score, ulsif


def problem(seed=0, source_rows=30, target_rows=20, centres=6):
    generator = np.random.default_rng(seed)
    source, target = generator.normal(0, 1, (source_rows, 2)), generator.normal(0.7, 1, (target_rows, 2))
    return tuple(gaussian(squared_distances(rows, target[:centres]), 1.0) for rows in (source, target))


def by_loops(at_source, at_target, penalty):
    kernels = at_source.shape[1]
    h_matrix, h_vector = np.zeros((kernels, kernels)), np.zeros(kernels)
    for a in range(kernels):
        for b in range(kernels):
            h_matrix[a, b] = sum(row[a] * row[b] for row in at_source) / len(at_source)
        h_matrix[a, a] += penalty
        h_vector[a] = sum(row[a] for row in at_target) / len(at_target)
    return np.maximum(np.linalg.inv(h_matrix) @ h_vector, 0)


@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_closed_form_against_loops(penalty):
    at_source, at_target = problem()
    found = coefficients(at_source, at_target, penalty)
    np.testing.assert_allclose(found, by_loops(at_source, at_target, penalty), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("rows", [(30, 20), (9, 25), (2, 2)])
def test_leaving_out_by_fitting_again(penalty, rows):
    at_source, at_target = problem(1, *rows, centres=min(6, rows[1]))
    pairs = min(rows)
    left_source, left_target = np.arange(pairs)[::-1], np.arange(pairs)
    total = 0.0
    for i, j in zip(left_source, left_target, strict=True):
        alpha = by_loops(np.delete(at_source, i, 0), np.delete(at_target, j, 0), penalty)
        total += (at_source[i] @ alpha) ** 2 / 2 - at_target[j] @ alpha
    score = left_out_score(at_source, at_target, penalty, left_source, left_target)
    assert score == pytest.approx(total / pairs, rel=1e-9)


def test_bandwidth_and_penalty_have_the_smallest_left_out_error():
    generator = np.random.default_rng(0)
    source, target = generator.normal(0, 1, (150, 1)), generator.normal(0.8, 0.6, (150, 1))
    chosen = ulsif(source, target, scales=(0.02, 0.7, 40.0), penalties=(0.1, 50.0))
    np.testing.assert_allclose(chosen, ulsif(source, target, scales=(0.7,), penalties=(0.1,)))
    assert (chosen >= 0).all() and chosen.mean() == pytest.approx(1, abs=0.15)


def test_one_row_takes_the_middle():
    source, target = np.zeros((1, 1)), np.array([[0.0], [1.0]])
    found = ulsif(source, target, scales=(0.5, 1.0, 2.0), penalties=(0.1, 1.0, 10.0))
    np.testing.assert_allclose(found, ulsif(source, target, scales=(1.0,), penalties=(1.0,)))


def test_what_is_refused():
    rows = np.zeros((3, 1))
    for option in ({"scales": ()}, {"scales": (-1.0,)}, {"penalties": ()}, {"penalties": (0.0,)}, {"centres": 0}):
        with pytest.raises(ValueError, match="were given: there is no kernel.*Give positive scales and penalties"):
            ulsif(rows, rows, **option)
