"""Forecasts in the units of the series."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from hf_transfer.time_series.forecasting import forecast
from hf_transfer.time_series.models import observed_mask_name
from hf_transfer.time_series.processor import SeriesProcessor
from tests.time_series.tiny_forecasters import H, L, forecaster


MEAN, STD = np.array([10.0, -3.0]), np.array([4.0, 0.5])
KINDS = ("patchtst", "patchtsmixer")


def processor(**own):
    lengths = {"context_length": L, "prediction_length": H}
    return SeriesProcessor(**{"channels": ["a", "b"], "mean": MEAN.tolist(), "std": STD.tolist(), **lengths, **own})


def raw(rows=L, seed=0):
    return MEAN + STD * np.random.default_rng(seed).normal(size=(rows, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_it_scales_forecasts_and_scales_back(kind):
    model, given = forecaster(kind).train(), raw()
    found = forecast(model, processor(), given)
    assert found.shape == (H, 2) and found.dtype == np.float64 and model.training
    with torch.no_grad():
        scaled = torch.tensor((given - MEAN) / STD, dtype=torch.float32)
        expected = model.eval()(past_values=scaled[None]).prediction_outputs[0].numpy()
    np.testing.assert_allclose(found, expected * STD + MEAN, rtol=1e-5, atol=1e-5)


def test_the_last_rows_are_the_context_in_whatever_form_they_come():
    model, given = forecaster(), raw(30)
    expected = forecast(model, processor(), given[-L:])
    table = pd.DataFrame({"date": range(30), "b": given[:, 1], "a": given[:, 0]})
    for values in (given, given.tolist(), torch.tensor(given), table, [list(row) for row in given]):
        np.testing.assert_array_equal(forecast(model, processor(), values), expected)


def test_several_series_are_forecast_as_one_by_one():
    model, many = forecaster(), [raw(20 + number, seed=number) for number in range(5)]
    expected = np.stack([forecast(model, processor(), one) for one in many])
    found = forecast(model, processor(), many, batch_size=2)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    stacked = np.stack([one[-L:] for one in many])
    np.testing.assert_allclose(forecast(model, processor(), stacked), expected, rtol=1e-6, atol=1e-6)
    assert forecast(model, processor(), many[:1]).shape == (1, H, 2)
    tables = [pd.DataFrame(one, columns=["a", "b"]) for one in many]
    np.testing.assert_allclose(forecast(model, processor(), tables), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_values_are_missing_for_the_model(kind):
    model, given = forecaster(kind).eval(), raw()
    given[3:6, 0] = np.nan
    given[:, 1] = np.nan
    found = forecast(model, processor(), given)
    assert np.isfinite(found).all()
    scaled = (given - MEAN) / STD
    filled = scaled.copy()
    filled[3:6, 0], filled[:, 1] = scaled[2, 0], 0.0
    with torch.no_grad():
        mask = {observed_mask_name(model): torch.tensor(~np.isnan(scaled))[None]}
        expected = model(past_values=torch.tensor(filled, dtype=torch.float32)[None], **mask).prediction_outputs
    np.testing.assert_allclose(found, expected[0].numpy() * STD + MEAN, rtol=1e-5, atol=1e-5)
    # of a channel without any value the model sees zeros, whose deviation is its least, 1e-5 ** 0.5
    assert np.abs(found[:, 1] - MEAN[1]).max() < 0.1


def test_a_saved_model_and_its_processor_forecast_the_same(tmp_path):
    from transformers import PatchTSTForPrediction

    model, given = forecaster(), raw()
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    again = PatchTSTForPrediction.from_pretrained(tmp_path), SeriesProcessor.from_pretrained(tmp_path)
    np.testing.assert_array_equal(forecast(*again, given), forecast(model, processor(), given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (raw()[:, :1], r"Values of shape \(16, 1\) were given where 2 channels \(.*a.*b.*\) were fitted"),
        (raw(L - 1), r"Values of shape \(15, 2\) were given where a context has 16 rows"),
        (pd.DataFrame(raw(), columns=["a", "c"]), "The table has columns .* and lacks .*b.*Rename the columns"),
        ([], "There is no series to forecast: the list is empty"),
        (np.full((L, 2), np.inf), "The values hold an infinite one"),
    ],
)
def test_values_that_are_no_context_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        forecast(forecaster(), processor(), given)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"channels": ["a"], "mean": [0.0], "std": [1.0]}, "num_input_channels=2, the processor was made for 1"),
        ({"context_length": 8}, "context_length=16, the processor was made for 8"),
        ({"prediction_length": 8}, "prediction_length=4, the processor was made for 8.*Load both from one folder"),
    ],
)
def test_a_processor_of_another_model_is_refused(own, message):
    with pytest.raises(ValueError, match=message):
        forecast(forecaster(), processor(**own), raw())
