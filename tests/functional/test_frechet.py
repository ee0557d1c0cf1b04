"""The Frechet distance against the root of a matrix, closed forms, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from hf_transfer.functional.frechet import frechet_distance


def normal(rows, width, seed, shift=0.0, mixed=True):
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(rows, width))
    return rows @ (np.eye(width) + 0.3 * generator.normal(size=(width, width)) * mixed) + shift


def by_roots(source, target):
    """The formula with covariances and a root of their product, (D, D)."""
    first, second = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (source, target))
    shift = source.mean(0) - target.mean(0)
    return float(shift @ shift + np.trace(first + second - 2 * np.real(sqrtm(first @ second))))


@pytest.mark.parametrize(("n", "m", "width"), [(60, 60, 5), (40, 90, 12), (200, 30, 8), (50, 50, 1)])
def test_it_is_that_of_the_matrix_root_where_that_is_well_conditioned(n, m, width):
    source, target = normal(n, width, 0), normal(m, width, 1, shift=0.7)
    assert frechet_distance(source, target) == pytest.approx(by_roots(source, target), rel=1e-9)


def test_fewer_rows_than_dimensions_are_the_root_on_what_they_span():
    """30 + 20 rows in 400 dimensions span at most 48 of them: in a basis of these the formula has full precision."""
    source, target = normal(30, 400, 0, mixed=False), normal(20, 400, 1, shift=0.2, mixed=False)
    basis = np.linalg.qr(np.concatenate([source, target]).T)[0]
    first, second = (np.cov(rows @ basis, rowvar=False) for rows in (source, target))
    # tr (S T)^(1/2) from the symmetric root of S: eigenvalues of a positive semi-definite matrix
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    trace = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    shift = source.mean(0) - target.mean(0)
    expected = shift @ shift + np.trace(first) + np.trace(second) - 2 * trace
    assert frechet_distance(source, target) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(target, source) == pytest.approx(expected, rel=1e-6)


def test_closed_forms():
    rows = normal(40, 3, 0)
    assert frechet_distance(rows, rows + [1.0, 2.0, -2.0]) == pytest.approx(9.0)
    centred = rows - rows.mean(0)
    # the same shape, three times as large: (3 - 1)^2 times the variance
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * np.cov(rows, rowvar=False).trace())
    # variance in different directions only: nothing to subtract
    flat = np.array([[-1.0], [1.0]])
    first, second = np.hstack([flat, 0 * flat]), np.hstack([0 * flat, 2 * flat])
    assert frechet_distance(first, second) == pytest.approx(2 + 8)


def test_it_is_symmetric_and_never_negative():
    for seed in range(20):
        generator = np.random.default_rng(seed)
        n, m, width = generator.integers(2, 30, 3)
        source, target = normal(n, width, seed), normal(m, width, seed + 50)
        found = frechet_distance(source, target)
        assert found >= 0
        assert frechet_distance(target, source) == pytest.approx(found, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("rows", "width"), [(50, 4), (10, 60), (2, 5)])
def test_the_same_data_are_at_zero_in_any_order(rows, width):
    source = 1e3 * normal(rows, width, 0)
    assert frechet_distance(source, source) < 1e-18 * (source**2).sum()
    assert frechet_distance(source, source[::-1]) < 1e-18 * (source**2).sum()


def test_it_has_digits_near_zero():
    """A spread larger by 1e-9: the difference of traces would be rounding errors, which are 1e-16 of them."""
    source = normal(60, 4, 0)
    source -= source.mean(0)
    spread = np.cov(source, rowvar=False).trace()
    assert frechet_distance(source, (1 + 1e-9) * source) == pytest.approx(1e-18 * spread, rel=1e-3)


def test_turning_and_moving_both_does_not_matter():
    source, target = normal(25, 40, 0) / np.arange(1, 41), normal(35, 40, 1, shift=1.0) / np.arange(1, 41)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(40, 40)))[0]
    expected = frechet_distance(source, target)
    assert frechet_distance(source @ rotation, target @ rotation) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(source + 1e5, target + 1e5) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(1e-6 * source, 1e-6 * target) == pytest.approx(1e-12 * expected, rel=1e-10)
    assert frechet_distance(source @ rotation, target) > 1.1 * expected  # turning one does


def test_degenerate_rows():
    assert frechet_distance(np.ones((5, 3)), np.ones((4, 3))) == 0.0
    assert frechet_distance(np.zeros((5, 3)), np.full((4, 3), 2.0)) == pytest.approx(12.0)
    source = normal(20, 3, 0)
    # copies leave the mean, and the variance but for the correction of n - 1
    assert frechet_distance(source, np.repeat(source, 50, axis=0)) < 1e-2
    point = np.repeat(source.mean(0, keepdims=True), 9, axis=0)
    assert frechet_distance(source, point) == pytest.approx(np.cov(source, rowvar=False).trace())


def test_single_precision_and_lists_are_read():
    source, target = normal(30, 4, 0), normal(30, 4, 1)
    single = frechet_distance(source.astype(np.float32), target.tolist())
    assert single == pytest.approx(frechet_distance(source, target), rel=1e-5)


def test_bad_input_is_refused():
    rows = normal(5, 3, 0)
    with pytest.raises(ValueError, match=r"width 3, the target of width 2.*means nothing.*Extract both"):
        frechet_distance(rows, rows[:, :2])
    with pytest.raises(ValueError, match=r"source has shape \(1, 3\).*at least 2 rows"):
        frechet_distance(rows[:1], rows)
    with pytest.raises(ValueError, match=r"5 rows of the target.*not finite"):
        frechet_distance(rows, rows * np.inf)
