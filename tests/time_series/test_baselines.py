"""The naive forecasts, entry by entry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_transfer.time_series.accuracy import forecast_errors
from hf_transfer.time_series.baselines import LinearForecast, baseline_errors, naive, seasonal_naive
from hf_transfer.time_series.windows import Windows
from tests.time_series.made import random_walk


def test_the_naive_forecast_repeats_the_last_row():
    past = torch.randn(3, 5, 2)
    forecast = naive(past, 4)
    assert forecast.shape == (3, 4, 2) and all(torch.equal(forecast[:, step], past[:, -1]) for step in range(4))


@pytest.mark.parametrize("period", [1, 3, 5])
def test_the_seasonal_naive_forecast_looks_whole_periods_back(period):
    past = torch.randn(2, 5, 2)
    forecast = seasonal_naive(period)(past, 12)
    for step in range(12):
        back = step - period
        while back >= 0:
            back -= period
        assert torch.equal(forecast[:, step], past[:, 5 + back])


def test_a_periodic_series_is_forecast_without_error():
    values = np.tile(random_walk(7, 2), (10, 1))
    windows = Windows(values, rows=range(14, 70), context_length=14, prediction_length=10)
    assert baseline_errors(seasonal_naive(7), windows)["mse"] == 0 < baseline_errors(naive, windows)["mse"]


def test_errors_of_a_baseline_are_those_of_its_forecasts():
    values = random_walk(60, 2, missing=0.2)
    windows = Windows(values, rows=range(10, 60), context_length=10, prediction_length=4)
    stacked = [torch.stack([item[key] for item in windows]) for key in ("past_values", "future_values")]
    wanted = forecast_errors(naive(stacked[0], 4), stacked[1], scale=np.array([1.0, 3.0]))
    found = baseline_errors(naive, windows, scale=np.array([1.0, 3.0]), batch_size=7)
    assert found.keys() == wanted.keys()
    assert all(np.allclose(found[name], wanted[name], rtol=1e-12) for name in found)


def test_errors_can_be_asked_for_in_other_units():
    windows = Windows(random_walk(60, 2), rows=range(10, 60), context_length=10, prediction_length=4)
    plain = baseline_errors(naive, windows)
    other = baseline_errors(naive, windows, unscale=lambda values: values * 10 + 3)
    assert math.isclose(other["mse"], 100 * plain["mse"], rel_tol=1e-6)


def test_the_linear_forecast_is_called_like_the_others():
    windows = Windows(random_walk(60, 2), rows=range(10, 60), context_length=10, prediction_length=4)
    assert baseline_errors(LinearForecast.fitted(windows, windows), windows)["mse"] > 0


def test_periods_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="period=0 is no number of rows.*Pass 1 or more"):
        seasonal_naive(0)
    with pytest.raises(ValueError, match="period has 24 rows, the context 5.*context_length of at least the period"):
        seasonal_naive(24)(torch.zeros(1, 5, 1), 3)
