"""KLIEP: the constraint, the optimality of its solution, and the choice of the bandwidth."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.features.reweighting.kernels import gaussian, squared_distances
from hf_transfer.features.reweighting.kliep import centres_of, kliep, mixture_weights


def likelihood(at_source, at_target, weights):
    """The objective with the constraint put in by scaling."""
    return np.log(at_target @ weights).mean() - np.log((at_source @ weights).mean())


def problem(seed=0, centres=8):
    generator = np.random.default_rng(seed)
    source, target = generator.normal(0, 1, (60, 2)), generator.normal(0.7, 1, (40, 2))
    return tuple(gaussian(squared_distances(rows, target[:centres]), 0.8) for rows in (source, target))


@pytest.mark.parametrize("seed", range(3))
def test_no_other_weights_are_likelier(seed):
    at_source, at_target = problem(seed)
    weights = mixture_weights(at_source, at_target)
    assert (weights >= 0).all()
    assert (at_source @ weights).mean() == pytest.approx(1)
    best = likelihood(at_source, at_target, weights)
    generator = np.random.default_rng(seed)
    for _ in range(500):
        other = np.maximum(weights + generator.normal(0, 0.1, len(weights)) * (weights.max() + 0.1), 0)
        assert likelihood(at_source, at_target, other) <= best + 1e-7
    # the conditions of a maximum: no kernel gains, and those in use gain nothing
    gain = (at_target / (at_target @ weights)[:, None]).mean(0) / at_source.mean(0)
    assert gain.max() < 1 + 1e-3
    np.testing.assert_allclose(gain[weights * at_source.mean(0) > 1e-2], 1, atol=1e-3)


def test_two_kernels_by_hand():
    """Shares b and 1 - b of two kernels with mean 1; b maximises 3 log b + log(1 - b)."""
    at_source = np.ones((1, 2))
    at_target = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(mixture_weights(at_source, at_target), [0.75, 0.25], atol=1e-5)
    twice = np.array([[2.0, 1.0]])  # a kernel with twice the mean needs half the weight
    np.testing.assert_allclose(mixture_weights(twice, at_target), [0.375, 0.25], atol=1e-5)


def test_kernels_that_reach_no_source_row_are_left_out():
    at_source = np.array([[1.0, 0.0], [0.5, 0.0]])
    weights = mixture_weights(at_source, np.array([[0.2, 1.0], [0.0, 1.0]]))
    np.testing.assert_allclose(weights, [1 / 0.75, 0])
    assert not mixture_weights(np.zeros((2, 2)), np.ones((2, 2))).any()
    np.testing.assert_allclose(mixture_weights(np.ones((2, 2)), np.zeros((3, 2))), [0.5, 0.5])


def test_the_bandwidth_has_the_largest_held_out_likelihood():
    generator = np.random.default_rng(0)
    source, target = generator.normal(0, 1, (200, 1)), generator.normal(0, 0.25, (150, 1))
    chosen = kliep(source, target, scales=(0.05, 0.3, 50.0), centres=50)
    np.testing.assert_allclose(chosen, kliep(source, target, scales=(0.3,), centres=50))
    assert chosen.mean() == pytest.approx(1)
    flat = kliep(source, target, scales=(50.0,), centres=50)
    np.testing.assert_allclose(flat, 1, atol=0.05)


def test_centres_are_target_rows():
    target = np.arange(10.0)[:, None]
    assert centres_of(target, 20, 0) is target
    some = centres_of(target, 4, 0)
    assert len(np.unique(some)) == 4 and np.isin(some, target).all()


def test_what_is_refused():
    rows = np.zeros((3, 1))
    for option in ({"scales": ()}, {"scales": (0.0,)}, {"centres": 0}, {"folds": 1}):
        with pytest.raises(ValueError, match="were given: there is no kernel to fit.*Give positive scales"):
            kliep(rows, rows, **option)
