"""Whatever happens after the training rows, nothing that training sees changes by a bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_transfer.time_series.accuracy import seasonal_scale
from hf_transfer.time_series.embedded import embedded_series
from hf_transfer.time_series.linear import LinearForecast
from hf_transfer.time_series.processor import SeriesProcessor
from hf_transfer.time_series.series import Series
from hf_transfer.time_series.splits import SeriesParts, split_by_time
from hf_transfer.time_series.windows import Windows


LENGTHS = {"context_length": 48, "prediction_length": 12}


def seen_in_training(
    series: Series, parts: SeriesParts
) -> tuple[SeriesProcessor, Windows, LinearForecast, np.ndarray]:
    processor = SeriesProcessor.fitted(series, parts.train, **LENGTHS)
    scaled = processor.scale(series.values)
    windows = Windows(scaled, rows=parts.train, **LENGTHS)
    # one penalty: choosing among several is what the evaluation part is for
    forecast = LinearForecast.fitted(windows, Windows(scaled, rows=parts.eval, **LENGTHS), penalties=[1e-3])
    return processor, windows, forecast, seasonal_scale(scaled[parts.known.start : parts.known.stop], 24)


def shifted(values: np.ndarray) -> np.ndarray:
    return values + 1000.0


def emptied(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(values))[:, None] % 20 < 17, values, np.nan)


def noisy(values: np.ndarray) -> np.ndarray:
    return values + np.random.default_rng(0).normal(size=values.shape) * 50


@pytest.mark.parametrize("few", [0.1, 1.0])
@pytest.mark.parametrize("change", [shifted, emptied, noisy])
def test_another_future_leaves_all_that_training_sees_bit_for_bit(change, few):
    series = embedded_series("series/target")
    parts = split_by_time(series, few=few, **LENGTHS)
    values = series.values.copy()
    values[parts.train.stop :] = change(values[parts.train.stop :])
    before = seen_in_training(series, parts)
    after = seen_in_training(
        replace(series, values=values), split_by_time(replace(series, values=values), few=few, **LENGTHS)
    )
    assert before[0].to_dict() == after[0].to_dict()
    assert len(before[1]) == len(after[1])
    for one, other in zip(before[1], after[1], strict=True):
        for key, value in one.items():
            assert np.array_equal(value.numpy(), other[key].numpy(), equal_nan=value.is_floating_point())
    assert torch.equal(before[2].weight, after[2].weight) and torch.equal(before[2].bias, after[2].bias)
    assert np.array_equal(before[3], after[3])


def test_rows_that_few_leaves_out_are_not_seen_either():
    series = embedded_series("series/target")
    parts = split_by_time(series, few=0.1, **LENGTHS)
    values = series.values.copy()
    values[: parts.known.start] = np.random.default_rng(0).normal(size=(parts.known.start, 3))
    before, after = (seen_in_training(one, parts) for one in (series, replace(series, values=values)))
    assert before[0].to_dict() == after[0].to_dict() and torch.equal(before[2].weight, after[2].weight)
    assert all(torch.equal(a["past_values"], b["past_values"]) for a, b in zip(before[1], after[1], strict=True))


def test_a_change_within_the_training_rows_is_seen():
    # or the tests above would pass for windows that show nothing
    series = embedded_series("series/target")
    parts = split_by_time(series, few=0.1, **LENGTHS)
    values = series.values.copy()
    values[parts.train.stop - 1] += 1
    before, after = (seen_in_training(one, parts) for one in (series, replace(series, values=values)))
    assert before[0].to_dict() != after[0].to_dict() and not torch.equal(before[2].weight, after[2].weight)


@pytest.mark.parametrize("few", [0.2, 1.0])
def test_targets_of_each_window_lie_in_its_part_and_in_no_other(few):
    series = embedded_series("series/target")
    parts = split_by_time(series, few=few, **LENGTHS)
    targets = []
    for rows in (parts.train, parts.eval, parts.test):
        windows = Windows(series.values, rows=rows, **LENGTHS)
        targets.append({row for start in windows.starts for row in range(start, start + 12)})
        assert targets[-1] == set(rows)
    assert not targets[0] & targets[1] and not targets[1] & targets[2] and not targets[0] & targets[2]
    # an evaluation context may be training rows, never the reverse
    assert max(targets[0]) < min(targets[1]) < min(targets[2])
