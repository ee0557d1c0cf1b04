"""The figures of a forecast comparison: drawn without a warning, the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_transfer.time_series.plots import Panel, plot_few_data, plot_forecasts, plot_horizon


def panel(step: str, rows: int = 60) -> Panel:
    count, unit = int(step[:-1]), step[-1]
    dates = np.datetime64("2020-01-31T06", "ns") + np.arange(rows) * np.timedelta64(count, unit)
    history = np.sin(np.arange(rows - 12.0))
    history[3:5] = np.nan
    return Panel("a", dates, history, np.full(12, np.nan), {"full": np.zeros(12), "naive": np.ones(12)})


def is_drawn(path) -> bool:
    with Image.open(path) as image:
        return len(image.convert("RGB").getcolors(1 << 24) or ()) > 20


@pytest.mark.parametrize("shares", [(1.0,), (0.05, 0.1, 1.0)])
def test_error_against_data(tmp_path, shares):
    errors = {name: {share: {0: 0.3, 1: 0.4} for share in shares} for name in ("scratch", "full")}
    errors["naive"] = {share: {0: 0.9} for share in shares}
    path = plot_few_data(errors, tmp_path / "few_data.png", baselines=["naive"])
    first = path.read_bytes()
    assert is_drawn(path) and plot_few_data(errors, path, baselines=["naive"]).read_bytes() == first


def test_error_against_horizon_with_steps_that_were_not_observed(tmp_path):
    errors = {"full": np.array([0.1, np.nan, 0.3]), "naive": np.array([0.2, 0.2, 0.2])}
    assert is_drawn(plot_horizon(errors, tmp_path / "horizon.png", step="1 hour", baselines=["naive"]))
    assert is_drawn(plot_horizon({"full": np.array([0.1])}, tmp_path / "one.png"))


@pytest.mark.parametrize("step", ["5m", "1h", "6h", "1D", "365D"])
def test_forecasts_have_dates_of_any_step(tmp_path, step):
    assert is_drawn(plot_forecasts([[panel(step), panel(step, 400)]], tmp_path / "forecasts.png"))
