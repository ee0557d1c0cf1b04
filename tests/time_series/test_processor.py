"""Scaling and contexts, saved beside the model."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_transfer.time_series.processor import SeriesProcessor
from hf_transfer.time_series.windows import Windows
from tests.time_series.made import random_walk, series_of


def fitted(values: np.ndarray, rows: range, *, context: int = 4, horizon: int = 2) -> SeriesProcessor:
    return SeriesProcessor.fitted(series_of(values), rows, context_length=context, prediction_length=horizon)


def test_moments_are_those_of_the_observed_training_rows():
    values = random_walk(50, 3, missing=0.3)
    processor = fitted(values, range(10, 30))
    for channel in range(3):
        known = [value for value in values[6:30, channel] if not np.isnan(value)]
        mean = sum(known) / len(known)
        std = (sum((value - mean) ** 2 for value in known) / len(known)) ** 0.5
        assert np.isclose(processor.mean[channel], mean, rtol=1e-12) and np.isclose(processor.std[channel], std)


def test_scaling_and_back_is_the_identity_for_arrays_and_tensors():
    values = random_walk(50, 2, missing=0.2)
    processor = fitted(values, range(4, 40))
    scaled = processor.scale(values)
    assert np.allclose(processor.unscale(scaled), values, equal_nan=True, rtol=1e-12)
    tensor = torch.from_numpy(values).expand(3, -1, -1)
    assert torch.allclose(processor.scale(tensor)[1], torch.from_numpy(scaled), equal_nan=True)
    assert processor.unscale(torch.zeros(5, 2, 2)).dtype == torch.float32
    assert np.allclose(np.nanmean(scaled[:40], axis=0), 0) and np.allclose(np.nanstd(scaled[:40], axis=0), 1)


def test_a_context_of_raw_values_is_that_of_the_windows():
    values = random_walk(50, 2, missing=0.3)
    processor = fitted(values, range(4, 40))
    windows = Windows(processor.scale(values), rows=range(40, 50), context_length=4, prediction_length=2)
    start = int(windows.starts[3])
    made = processor(values[:start], return_tensors="pt")
    assert torch.equal(made["past_values"][0], windows[3]["past_values"])
    assert torch.equal(made["past_observed_mask"][0], windows[3]["past_observed_mask"])


def test_one_series_several_or_lists_are_taken():
    values = random_walk(20, 2)
    processor = fitted(values, range(4, 20))
    single = processor(values)["past_values"]
    assert isinstance(single, np.ndarray) and single.shape == (1, 4, 2) and single.dtype == np.float32
    for several in ([values, values[:10]], np.stack([values, values]), [values.tolist(), values.tolist()]):
        made = processor(several)["past_values"]
        assert made.shape == (2, 4, 2) and np.array_equal(made[0], single[0])
    assert np.array_equal(processor(values.tolist())["past_values"], single)
    assert np.array_equal(processor(torch.from_numpy(values))["past_values"], single)
    column = fitted(values[:, :1], range(4, 20))
    assert np.array_equal(column(values[:, 0])["past_values"], single[..., :1])
    assert np.array_equal(column(values[:, 0].tolist())["past_values"], single[..., :1])


def test_it_loads_as_it_was_saved(tmp_path):
    processor = fitted(random_walk(50, 3), range(4, 40))
    processor.save_pretrained(tmp_path)
    assert os.listdir(tmp_path) == ["preprocessor_config.json"]
    loaded = SeriesProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict() and loaded.step == "1 hour"
    assert (loaded.mean, loaded.std, loaded.channels) == (processor.mean, processor.std, ["c0", "c1", "c2"])
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["feature_extractor_type"] == "SeriesProcessor" and saved["context_length"] == 4


def test_other_channels_than_fitted_are_refused():
    made = series_of(random_walk(50, 2), channels=("load", "price"))
    processor = SeriesProcessor.fitted(made, range(4, 40), context_length=4, prediction_length=2)
    processor.check(made)
    with pytest.raises(ValueError, match="has 1 channels, `load`, where .* fitted on 2, `load`, `price`: .*another"):
        processor.check(series_of(made.values[:, :1], channels=("load",)))
    with pytest.raises(ValueError, match=r"in another order: .*Read the series with channels=\['load', 'price'\]"):
        processor.check(series_of(made.values, channels=("price", "load")))
    with pytest.raises(ValueError, match="has 2 channels, `load`, `wind`"):
        processor.check(series_of(made.values, channels=("load", "wind")))
    for values in (np.zeros((9, 3)), torch.zeros(9, 1), np.float64(1)):
        with pytest.raises(ValueError, match="2 channels.*were fitted.*channels last"):
            processor.scale(values)  # type: ignore[type-var]
        with pytest.raises(ValueError, match="2 channels.*were fitted"):
            processor.unscale(values)  # type: ignore[type-var]


def test_rows_another_time_apart_are_refused():
    made = series_of(random_walk(50, 1))
    processor = SeriesProcessor.fitted(made, range(4, 40), context_length=4, prediction_length=2)
    with pytest.raises(ValueError, match="a row every 1 day, the processor was fitted on rows every 1 hour.*Resample"):
        processor.check(series_of(made.values, step=np.timedelta64(1, "D")))
    # rows that are counted say nothing of time
    processor.check(replace(made, step=None, calendar="rows"))


def test_channels_that_cannot_be_scaled_are_refused():
    values = random_walk(50, 3)
    values[:40, 1] = 7.0
    with pytest.raises(ValueError, match=r"`c1` of `made` is constant in the 36 training.*channels=\['c0', 'c2'\]"):
        fitted(values, range(8, 40))
    values[:40, 1] = np.nan
    with pytest.raises(ValueError, match="Channel `c1` of `made` has no value in the 36 training rows.*more rows"):
        fitted(values, range(8, 40))
    with pytest.raises(ValueError, match="is constant in the 20 training rows: .*Train on more rows"):
        fitted(np.ones((30, 1)), range(4, 20))


def test_contexts_must_be_whole_and_finite():
    processor = fitted(random_walk(50, 2), range(4, 40))
    with pytest.raises(ValueError, match=r"shape \(3, 2\).*context has 4 rows of 2 channels.*T of at least 4"):
        processor(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="infinite one.*Pass NaN"):
        processor(np.full((4, 2), np.inf))
    with pytest.raises(ValueError, match="3 channels|shape \\(5, 3\\)"):
        processor(np.zeros((5, 3)))


def test_moments_must_be_usable():
    options = {"context_length": 4, "prediction_length": 2}
    with pytest.raises(ValueError, match="2 channels with 1 means and 2 standard deviations.*one of each"):
        SeriesProcessor(channels=["a", "b"], mean=[0.0], std=[1.0, 1.0], **options)
    for mean, std in (([0.0], [0.0]), ([np.nan], [1.0]), ([0.0], [np.inf])):
        with pytest.raises(ValueError, match="would not give numbers.*positive deviations"):
            SeriesProcessor(channels=["a"], mean=mean, std=std, **options)
