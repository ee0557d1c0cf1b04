"""Differences of errors over blocks of time: against closed forms, and against rows taken for independent."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.time_series.judging import (
    NEGATIVE,
    POSITIVE,
    UNDECIDED,
    ErrorDifference,
    block_length_of,
    blocks,
    error_differences,
)
from hf_transfer.time_series.scored import Scored


def run(errors: np.ndarray, count: np.ndarray | None = None) -> Scored:
    count = np.ones(len(errors), dtype=int) if count is None else count
    return Scored({"mse": errors.sum() / count.sum()}, {}, {"mse": errors, "mae": errors, "count": count})


def test_blocks_follow_each_other_and_the_rest_is_in_the_last():
    assert blocks(10, 4).tolist() == [0] * 4 + [1] * 6
    assert blocks(3, 5).tolist() == [0] * 3


def test_blocks_grow_while_ten_remain():
    assert [block_length_of(rows, 24) for rows in (100, 479, 480, 2000)] == [24, 24, 48, 192]
    assert block_length_of(100, 4, season=12) == 12


def test_the_mean_is_the_difference_of_the_errors_whatever_was_observed():
    random = np.random.default_rng(0)
    count = random.integers(0, 9, 50)
    first, second = (run(random.random(50) * count, count) for _ in range(2))
    runs = {"full": {0: first}, "scratch": {0: second}}
    (found,) = error_differences(runs, [("full", "scratch")], block_length=7)
    assert found.mean == pytest.approx(first.scores["mse"] - second.scores["mse"], rel=1e-12)


def test_the_standard_error_is_that_of_whole_blocks():
    random = np.random.default_rng(1)
    errors = np.repeat(random.normal(size=12), 5)
    runs = {"full": {0: run(errors)}, "naive": {0: run(np.zeros(60))}}
    (found,) = error_differences(runs, [("full", "naive")], block_length=5, familywise=False)
    own = errors.reshape(12, 5).mean(1)
    error = own.std(ddof=1) / np.sqrt(12)
    assert found.low is not None and found.high is not None
    # Student's quantile at 11 degrees is 2.20, and the bootstrap comes near it
    assert (found.high - found.low) / 2 == pytest.approx(2.2 * error, rel=0.1)
    single = error_differences(runs, [("full", "naive")], block_length=1, familywise=False)[0]
    assert single.low is not None and found.low < single.low  # rows taken for independent: far too sure


def test_blocks_hold_the_truth_where_rows_do_not():
    """Errors of overlapping windows: a moving average over the horizon of what happens once."""
    random = np.random.default_rng(2)
    horizon = 12
    held = {1: 0, horizon: 0}
    for _ in range(60):
        shocks = random.normal(size=30 * horizon + horizon - 1)
        errors = np.convolve(shocks, np.ones(horizon) / horizon, mode="valid")  # of mean zero
        runs = {"full": {0: run(errors)}, "scratch": {0: run(np.zeros(len(errors)))}}
        for length in held:
            (found,) = error_differences(runs, [("full", "scratch")], block_length=length, familywise=False)
            held[length] += found.verdict == UNDECIDED
    assert held[horizon] >= 50 and held[1] <= 35


def test_seeds_vary_beside_the_blocks_and_baselines_have_none():
    random = np.random.default_rng(3)
    time = random.random(80)
    seeds = {seed: run(time + shift) for seed, shift in enumerate((-0.3, 0.0, 0.3))}
    runs = {"full": seeds, "naive": {0: run(time + 0.2)}}
    (found,) = error_differences(runs, [("full", "naive")], block_length=8, fixed=["naive"])
    assert found.mean == pytest.approx(-0.2) and found.verdict == UNDECIDED
    one = {"full": {1: seeds[1]}, "naive": runs["naive"]}
    assert error_differences(one, [("full", "naive")], block_length=8, fixed=["naive"])[0].verdict == POSITIVE
    with pytest.raises(ValueError, match="no seed in common"):
        error_differences({"full": {1: seeds[1]}, "scratch": {2: seeds[2]}}, [("full", "scratch")], block_length=8)


def test_too_few_blocks_leave_no_interval():
    runs = {"full": {0: run(np.zeros(20))}, "naive": {0: run(np.ones(20))}}
    assert error_differences(runs, [("full", "naive")], block_length=10) == [ErrorDifference(-1.0)]
    assert error_differences(runs, [], block_length=10) == []


def test_less_error_is_positive():
    assert ErrorDifference(-1.0, -2.0, -0.5).verdict == POSITIVE
    assert ErrorDifference(1.0, 0.5, 2.0).verdict == NEGATIVE
    assert ErrorDifference(1.0, -0.5, 2.0).verdict == UNDECIDED == ErrorDifference(1.0).verdict
