"""Errors against loops over every entry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_transfer.time_series.accuracy import ErrorSums, forecast_errors, seasonal_scale
from tests.time_series.made import random_walk


def naive_errors(forecast, truth, scale, step=None):
    """Mean squared, absolute and scaled error entry by entry."""
    squares, absolutes, scaled = [], [], []
    for window in range(len(truth)):
        for at in range(truth.shape[1]):
            for channel in range(truth.shape[2]):
                wanted = truth[window, at, channel]
                if math.isnan(wanted) or (step is not None and at != step - 1):
                    continue
                error = abs(forecast[window, at, channel] - wanted)
                squares.append(error**2)
                absolutes.append(error)
                scaled.append(error / scale[channel])
    return {name: sum(part) / len(part) for name, part in (("mse", squares), ("mae", absolutes), ("mase", scaled))}


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("horizon", [1, 7, 24])
def test_errors_are_those_of_the_loops(missing, horizon):
    random = np.random.default_rng(0)
    truth, forecast = random.normal(size=(2, 9, horizon, 3))
    truth[random.random(truth.shape) < missing] = np.nan
    scale = np.array([0.5, 2.0, 9.0])
    errors = forecast_errors(forecast, truth, scale=scale)
    for name, value in naive_errors(forecast, truth, scale).items():
        assert isinstance(errors[name], float) and math.isclose(errors[name], value, rel_tol=1e-12)
    for step in {1, horizon} | {step for step in (6, 12) if step <= horizon}:
        for name, value in naive_errors(forecast, truth, scale, step).items():
            assert math.isclose(errors[f"{name}_at_{step}"], value, rel_tol=1e-12)
            assert math.isclose(errors[f"{name}_by_horizon"][step - 1], value, rel_tol=1e-12)
    assert len(errors["mse_by_horizon"]) == horizon and f"mse_at_{horizon + 1}" not in errors


def test_batches_give_what_all_at_once_does():
    random = np.random.default_rng(0)
    truth, forecast = random.normal(size=(2, 10, 5, 2))
    truth[0] = np.nan
    sums = ErrorSums()
    for part in (slice(0, 1), slice(1, 4), slice(4, 10)):
        sums.add(torch.from_numpy(forecast[part]), torch.from_numpy(truth[part]))
    whole = forecast_errors(forecast, truth)
    for name, value in sums.errors().items():
        assert np.allclose(value, whole[name], rtol=1e-12)
    assert "mase" not in whole


def test_a_step_without_any_value_has_none_and_the_mean_leaves_it_out():
    truth = np.array([[[1.0], [np.nan]]])
    errors = forecast_errors(np.zeros((1, 2, 1)), truth)
    assert errors["mse"] == 1 and math.isnan(errors["mse_at_2"]) and math.isnan(errors["mae_by_horizon"][1])


def test_a_forecast_that_is_not_finite_shows_only_where_something_was_observed():
    forecast = np.array([[[np.nan], [0.0]]])
    assert math.isnan(forecast_errors(forecast, np.ones((1, 2, 1)))["mse"])
    assert forecast_errors(forecast, np.array([[[np.nan], [1.0]]]))["mse"] == 1


def test_the_seasonal_naive_forecast_within_the_training_part_has_a_scaled_error_of_one():
    values = random_walk(200, 3)
    scale = seasonal_scale(values, 24)
    errors = forecast_errors(values[None, :-24], values[None, 24:], scale=scale)
    assert math.isclose(errors["mase"], 1, rel_tol=1e-12)


@pytest.mark.parametrize("period", [1, 7])
def test_the_scale_is_the_mean_over_pairs_that_were_observed(period):
    values = random_walk(60, 2, missing=0.3)
    for channel in range(2):
        pairs = [
            abs(values[row, channel] - values[row - period, channel])
            for row in range(period, 60)
            if not math.isnan(values[row, channel]) and not math.isnan(values[row - period, channel])
        ]
        assert math.isclose(seasonal_scale(values, period)[channel], sum(pairs) / len(pairs), rel_tol=1e-12)


def test_scaled_errors_do_not_depend_on_units():
    values, random = random_walk(80, 2), np.random.default_rng(1)
    forecast, truth = random.normal(size=(2, 4, 5, 2))
    units = np.array([1000.0, 0.01])
    plain = forecast_errors(forecast, truth, scale=seasonal_scale(values, 3))["mase"]
    other = forecast_errors(forecast * units + 5, truth * units + 5, scale=seasonal_scale(values * units, 3))["mase"]
    assert math.isclose(plain, other, rel_tol=1e-9)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="None of the values to forecast was observed.*Evaluate on rows"):
        forecast_errors(np.zeros((1, 2, 1)), np.full((1, 2, 1), np.nan))
    with pytest.raises(ValueError, match=r"shape \(1, 2, 1\) cannot be compared with truth of shape \(1, 3, 1\)"):
        forecast_errors(np.zeros((1, 2, 1)), np.zeros((1, 3, 1)))
    with pytest.raises(ValueError, match=r"Pass both as \(B, H, C\)"):
        forecast_errors(np.zeros((2, 1)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="scale has 2 channels, the forecast 1.*one number a channel"):
        forecast_errors(np.zeros((1, 2, 1)), np.zeros((1, 2, 1)), scale=np.ones(2))
    with pytest.raises(ValueError, match="not one positive number a channel.*seasonal_scale"):
        ErrorSums(scale=np.array([1.0, 0.0]))
    sums = ErrorSums()
    sums.add(np.zeros((1, 2, 1)), np.zeros((1, 2, 1)))
    with pytest.raises(ValueError, match="after batches of 2 steps"):
        sums.add(np.zeros((1, 3, 1)), np.zeros((1, 3, 1)))


def test_a_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match="Channel number 1 repeats itself exactly after 2 rows.*divide by zero"):
        seasonal_scale(np.array([[1.0, 1.0], [5.0, 2.0], [3.0, 1.0], [4.0, 2.0]]), 2)
    for period in (0, 4):
        with pytest.raises(ValueError, match=f"period={period} with 4 training rows.*Pass a period shorter"):
            seasonal_scale(random_walk(4, 1), period)
