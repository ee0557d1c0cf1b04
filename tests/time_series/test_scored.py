"""Errors of a part: against loops over windows, steps and channels, and written and read again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_transfer.time_series.baselines import naive
from hf_transfer.time_series.processor import SeriesProcessor
from hf_transfer.time_series.scored import Units, load_scored, of_baseline, of_model, save_scored, score_windows
from hf_transfer.time_series.windows import Windows
from tests.time_series.tiny_forecasters import C, H, L, forecaster, values


UNITS = Units(np.array([2.0, 0.5]), np.array([0.3, 4.0]))


def processor() -> SeriesProcessor:
    lengths = {"context_length": L, "prediction_length": H}
    return SeriesProcessor(channels=["a", "b"], mean=[5.0, -1.0], std=[3.0, 0.1], **lengths)


def windows(raw: np.ndarray, rows: range, **options) -> Windows:
    return Windows(processor().scale(raw), rows=rows, context_length=L, prediction_length=H, **options)


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("stride", [1, 3])
def test_errors_are_those_of_the_loops_in_both_units_and_by_row(missing, stride):
    raw, rows = 7.0 + 3.0 * values(60, missing=missing), range(30, 60)
    part = windows(raw, rows, stride=stride)
    found = score_windows(of_baseline(naive, H), part, processor(), UNITS, batch_size=5)
    scaled, plain, mase, by_row = [], [], [], np.zeros((30, 2))
    steps: list[list[float]] = [[] for _ in range(H)]
    for start in range(30, 60 - H + 1, stride):
        for channel in range(C):
            seen = [value for value in raw[start - L : start, channel] if not np.isnan(value)]
            for step in range(H):
                truth = raw[start + step, channel]
                if np.isnan(truth):
                    continue
                error = abs(truth - seen[-1])
                plain.append(error)
                mase.append(error / UNITS.season[channel])
                scaled.append(error / UNITS.std[channel])
                steps[step].append(scaled[-1] ** 2)
                by_row[start + step - 30] += scaled[-1] ** 2, 1
    expected = {
        "mse": np.mean(np.square(scaled)),
        "mae": np.mean(scaled),
        "mase": np.mean(mase),
        "mse_original": np.mean(np.square(plain)),
        "mae_original": np.mean(plain),
    }
    # windows are float32
    assert {name: found.scores[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(found.by_horizon["mse"], [np.mean(own) for own in steps], rtol=1e-5)
    np.testing.assert_allclose(found.rows["mse"], by_row[:, 0], rtol=1e-4, atol=1e-6)
    assert found.rows["count"].tolist() == by_row[:, 1].tolist()


def test_a_model_is_asked_with_its_mask_in_evaluation_and_left_as_it_was():
    model = forecaster(dropout=True).train()
    part = windows(7.0 + 3.0 * values(60, missing=0.2), range(30, 60))
    (batch,) = part.batches(len(part))
    found = of_model(model, "cpu")(batch)
    assert model.training
    with torch.no_grad():
        own = model.eval()(past_values=batch["past_values"], past_observed_mask=batch["past_observed_mask"])
    assert torch.equal(found, own.prediction_outputs)


def test_what_is_written_is_read_again(tmp_path):
    part = windows(7.0 + 3.0 * values(60), range(30, 60))
    found = score_windows(of_baseline(naive, H), part, processor(), UNITS)
    save_scored(found, tmp_path)
    again = load_scored(tmp_path, found.scores)
    assert again.scores == found.scores
    for one, other in ((found.by_horizon, again.by_horizon), (found.rows, again.rows)):
        assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_part_that_was_not_observed_is_refused():
    raw = 7.0 + values(60)
    raw[30:] = np.nan
    with pytest.raises(ValueError, match="observed"):
        score_windows(of_baseline(naive, H), windows(raw, range(30, 60)), processor(), UNITS)
