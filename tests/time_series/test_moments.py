"""Least squares from sums, with missing targets."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.time_series.moments import Moments


def rows(count=40, width=3, targets=4, *, missing=0.0, seed=0):
    random = np.random.default_rng(seed)
    inputs, weights = random.normal(size=(count, width)) + 2.0, random.uniform(0.5, 2.0, size=count)
    wanted = weights[:, None] * (inputs @ random.normal(size=(width, targets)) + 1.0)
    wanted += random.normal(size=wanted.shape)
    wanted[random.random(wanted.shape) < missing] = np.nan
    return inputs, weights, wanted


def by_hand(inputs, weights, wanted, penalty):
    """Each target by itself, over the rows that have it, as the formula says it."""
    maps = np.zeros((inputs.shape[1] + 1, wanted.shape[1]))
    for target in range(wanted.shape[1]):
        seen = ~np.isnan(wanted[:, target])
        scale = weights[seen]
        design = np.c_[inputs[seen], np.ones(seen.sum())] * scale[:, None]
        mean = (scale**2 @ inputs[seen]) / (scale**2).sum()
        centred = (inputs[seen] - mean) * scale[:, None]
        ridge = penalty * np.mean(np.square(centred).sum(0))
        # the penalty as further rows: sqrt(ridge) * w = 0, the constant free
        extra = np.c_[np.sqrt(ridge) * np.eye(inputs.shape[1]), np.zeros(inputs.shape[1])]
        stacked = np.r_[wanted[seen, target], np.zeros(inputs.shape[1])]
        maps[:, target] = np.linalg.lstsq(np.r_[design, extra], stacked, rcond=None)[0]
    return maps


def error_by_hand(inputs, weights, wanted, maps):
    forecast = weights[:, None] * (np.c_[inputs, np.ones(len(inputs))] @ maps)
    return np.nanmean(np.square(forecast - wanted))


@pytest.mark.parametrize("missing", [0.0, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("penalty", [0.0, 1e-3, 0.5])
def test_the_fit_is_that_of_lstsq_over_the_observed_rows_of_each_target(missing, penalty):
    data = rows(200, missing=missing)
    moments = Moments(3, 4)
    for start in range(0, 200, 33):
        moments.add(*(part[start : start + 33] for part in data))
    maps = moments.fit([penalty])
    np.testing.assert_allclose(maps[0], by_hand(*data, penalty), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(moments.errors(maps)[0], error_by_hand(*data, maps[0]), rtol=1e-9)
    assert moments.count == (~np.isnan(data[2])).sum()


def test_several_penalties_are_those_one_by_one_and_errors_are_of_any_rows():
    data, other = rows(missing=0.2), rows(25, missing=0.2, seed=1)
    moments, held_out = Moments(3, 4), Moments(3, 4)
    moments.add(*data)
    held_out.add(*other)
    maps = moments.fit([0.0, 0.1])
    np.testing.assert_array_equal(maps[1], moments.fit([0.1])[0])
    expected = [error_by_hand(*other, one) for one in maps]
    np.testing.assert_allclose(held_out.errors(maps), expected, rtol=1e-9)


def test_inputs_that_repeat_each_other_get_the_solution_of_least_norm():
    inputs, weights, wanted = rows()
    doubled = np.c_[inputs, inputs]
    moments, single = Moments(6, 4), Moments(3, 4)
    moments.add(doubled, weights, wanted)
    single.add(inputs, weights, wanted)
    found, expected = moments.fit([0.0])[0], single.fit([0.0])[0]
    np.testing.assert_allclose(found[:3], found[3:6], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(2 * found[:3], expected[:3], rtol=1e-7, atol=1e-9)


def test_constant_inputs_give_the_mean_and_a_target_never_seen_gives_zero():
    moments = Moments(2, 3)
    wanted = np.array([[1.0, np.nan, 5.0], [3.0, np.nan, np.nan]])
    moments.add(np.ones((2, 2)), np.ones(2), wanted)
    maps = moments.fit([0.0, 1.0])
    for one in maps:
        np.testing.assert_allclose(one[:2], 0.0, atol=1e-12)
        np.testing.assert_allclose(one[2], [2.0, 0.0, 5.0], atol=1e-12)


def test_rows_without_any_target_count_for_nothing():
    moments, alone = Moments(3, 4), Moments(3, 4)
    data = rows()
    moments.add(*data)
    alone.add(*data)
    moments.add(np.full((2, 3), 1e6), np.ones(2), np.full((2, 4), np.nan))
    np.testing.assert_array_equal(moments.fit([0.0]), alone.fit([0.0]))
