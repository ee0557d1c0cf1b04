"""What the forecasts of a part come to: errors in scaled and original units, by step ahead and by forecast row."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_transfer.files import whole_file
from hf_transfer.modes import at_rest
from hf_transfer.time_series.accuracy import ErrorSums
from hf_transfer.time_series.baselines import Baseline
from hf_transfer.time_series.models import observed_mask_name
from hf_transfer.time_series.processor import SeriesProcessor
from hf_transfer.time_series.windows import Windows


FILE = "errors.npz"
"""In the folder of a run: its errors by step and by row of the test part."""

Predict = Callable[[Mapping[str, Tensor]], Tensor]
"""A batch of windows to a forecast `(B, H, C)`, scaled as the batch is."""

__all__ = [
    "FILE",
    "Predict",
    "Scored",
    "Units",
    "load_scored",
    "of_baseline",
    "of_model",
    "save_scored",
    "score_windows",
]


@dataclass(frozen=True)
class Units:
    """
    In what errors are counted, the same for all shares of the data.

    Args:
        std (`np.ndarray`):
            `(C,)` standard deviation of each channel over the whole training part, the unit of scaled errors. Models
            do not see it: each is scaled by the rows that it learns from.
        season (`np.ndarray`): `(C,)` error of the seasonal naive forecast within that part, the unit of MASE.
    """

    std: np.ndarray
    season: np.ndarray


@dataclass(frozen=True)
class Scored:
    """
    Errors of a model on one part.

    Args:
        scores (`dict[str, float]`):
            `mse` and `mae` in units of the standard deviation of the training part, `mase`, and `mse_original` and
            `mae_original` in the units of the series; each also at named steps, such as `mse_at_24`.
        by_horizon (`dict[str, np.ndarray]`): `(H,)` scaled `mse` and `mae` and `mase` of each step ahead.
        rows (`dict[str, np.ndarray]`):
            `(R,)` by row of the part that was forecast: sums of scaled `mse` and `mae` over windows, steps and
            channels, and `count` of what was observed.
    """

    scores: dict[str, float]
    by_horizon: dict[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)


def score_windows(
    predict: Predict, windows: Windows, processor: SeriesProcessor, units: Units, *, batch_size: int = 256
) -> Scored:
    r"""
    Errors of forecasts over all windows of a part.

    What a row of the part adds, $e_t = \sum_{b, h, c : s_b + h = t} (y_{tc} - \hat y_{bhc})^2 / \sigma_c^2$ over the
    windows $b$ that begin at $s_b$, is kept beside the mean: rows of different times have no target in common, where
    windows that overlap share almost all of theirs.

    Args:
        predict (`Callable`): see [`of_model`] and [`of_baseline`].
        windows ([`Windows`]): of the part, scaled by the processor.
        processor ([`SeriesProcessor`]): that scaled them.
        units ([`Units`]): in what errors are counted.
        batch_size (`int`, *optional*, defaults to 256): windows at once.

    Raises:
        ValueError: if nothing was observed; and as [`ErrorSums`] does.

    Example:
        >>> values = np.arange(10.0)[:, None]
        >>> windows = Windows(values, rows=range(2, 10), context_length=2, prediction_length=2)
        >>> made = {"channels": ["a"], "mean": [0], "std": [1], "context_length": 2, "prediction_length": 2}
        >>> from hf_transfer.time_series.baselines import naive
        >>> units = Units(np.ones(1), np.ones(1))
        >>> found = score_windows(of_baseline(naive, 2), windows, SeriesProcessor(**made), units)
        >>> found.scores["mae"], found.by_horizon["mae"].tolist(), found.rows["count"].tolist()
        (1.5, [1.0, 2.0], [1, 2, 2, 2, 2, 2, 2, 1])
    """
    scaled, original = ErrorSums(), ErrorSums(scale=units.season)
    first, horizon = int(windows.rows.start), windows.prediction_length
    size = windows.rows.stop - first
    rows = {"mse": np.zeros(size), "mae": np.zeros(size), "count": np.zeros(size, dtype=np.int64)}
    begun = 0
    for batch in windows.batches(batch_size):
        forecast = processor.unscale(predict(batch).double().cpu().numpy())
        truth = processor.unscale(batch["future_values"].double().numpy())
        original.add(forecast, truth)
        scaled.add(forecast / units.std, truth / units.std)
        error = np.abs(forecast - truth) / units.std
        at = windows.starts[begun : begun + len(truth), None] + np.arange(horizon) - first
        begun += len(truth)
        np.add.at(rows["mse"], at, np.nansum(error**2, axis=2))
        np.add.at(rows["mae"], at, np.nansum(error, axis=2))
        np.add.at(rows["count"], at, (~np.isnan(truth)).sum(2))
    found, others = scaled.errors(), original.errors()
    by_horizon = {name: found.pop(f"{name}_by_horizon") for name in ("mse", "mae")}
    by_horizon["mase"] = others.pop("mase_by_horizon")
    found |= {name: value for name, value in others.items() if name.startswith("mase")}
    found |= {f"{name}_original": others[name] for name in ("mse", "mae")}
    return Scored(found, by_horizon, rows)


def of_model(model: nn.Module, device: torch.device | str) -> Predict:
    """Forecasts of a model, in evaluation mode."""
    mask = observed_mask_name(model)

    def predict(batch: Mapping[str, Tensor]) -> Tensor:
        inputs = {"past_values": batch["past_values"], mask: batch["past_observed_mask"]}
        with at_rest(model), torch.no_grad():
            output: Any = model(**{name: value.to(device) for name, value in inputs.items()})
        return output["prediction_outputs"].float()

    return predict


def of_baseline(baseline: Baseline, prediction_length: int) -> Predict:
    """Forecasts of a baseline."""
    return lambda batch: baseline(batch["past_values"].double(), prediction_length)


def save_scored(scored: Scored, folder: str | os.PathLike[str]) -> Path:
    """
    Write errors by step and row into a folder; the scores themselves are for `results.json`.

    Args:
        scored ([`Scored`]): to keep.
        folder (`str` or path): of the run.
    """
    path = Path(folder) / FILE
    arrays = {f"horizon_{name}": own for name, own in scored.by_horizon.items()}
    arrays |= {f"rows_{name}": own for name, own in scored.rows.items()}
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    return path


def load_scored(folder: str | os.PathLike[str], scores: Mapping[str, float]) -> Scored:
    """What [`save_scored`] wrote, with its scores."""
    with np.load(Path(folder) / FILE, allow_pickle=False) as stored:
        parts = {name: {} for name in ("horizon", "rows")}
        for key in stored.files:
            kind, _, name = key.partition("_")
            parts[kind][name] = stored[key]
    return Scored(dict(scores), parts["horizon"], parts["rows"])
