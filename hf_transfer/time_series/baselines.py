"""Forecasts that a model must beat: the last value, the value a season ago, and a linear map of the context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_transfer.time_series.accuracy import ErrorSums
from hf_transfer.time_series.linear import LinearForecast
from hf_transfer.time_series.windows import Windows


__all__ = ["Baseline", "LinearForecast", "baseline_errors", "naive", "seasonal_naive"]

Baseline = Callable[[Tensor, int], Tensor]
"""`(past_values (B, L, C), prediction_length)` to a forecast `(B, H, C)`."""


def naive(past_values: Tensor, prediction_length: int) -> Tensor:
    """
    The last observed value, for every step: the best forecast of a random walk.

    Args:
        past_values (`Tensor`): `(B, L, C)`, filled as [`Windows`] does.
        prediction_length (`int`): steps `H`.

    Example:
        >>> naive(torch.tensor([[[1.0], [5.0]]]), 3).ravel()
        tensor([5., 5., 5.])
    """
    return past_values[:, -1:].expand(-1, prediction_length, -1)


def seasonal_naive(period: int) -> Baseline:
    """
    A function of the kind of [`naive`] that repeats the last `period` rows: the value of the same hour, or day, or
    month before.

    Args:
        period (`int`): rows of a season, for instance from [`seasonal_period`]; 1 gives [`naive`].

    Raises:
        ValueError: if the period is not positive, or, when called, longer than the context.

    Example:
        >>> seasonal_naive(2)(torch.tensor([[[1.0], [5.0], [6.0]]]), 3).ravel()
        tensor([5., 6., 5.])
    """
    if period < 1:
        raise ValueError(f"period={period} is no number of rows: nothing repeats after it. Pass 1 or more.")

    def repeat_last_season(past_values: Tensor, prediction_length: int) -> Tensor:
        if period > past_values.shape[1]:
            raise ValueError(
                f"The period has {period} rows, the context {past_values.shape[1]}: the value a period ago is not in "
                "it. Pass a context_length of at least the period, or a shorter period."
            )
        return past_values[:, -period:][:, torch.arange(prediction_length) % period]

    return repeat_last_season


def baseline_errors(
    baseline: Baseline,
    windows: Windows,
    *,
    scale: np.ndarray | None = None,
    unscale: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 256,
) -> dict[str, Any]:
    """
    Errors of a baseline over all windows, as [`forecast_errors`] gives them, without keeping the forecasts.

    Args:
        baseline (`Baseline`): [`naive`], what [`seasonal_naive`] returns, or a fitted [`LinearForecast`].
        windows ([`Windows`]): of the test part, say.
        scale (`np.ndarray`, *optional*): `(C,)` for MASE, in the units errors are measured in.
        unscale (`Callable`, *optional*): brings values to these units, such as `SeriesProcessor.unscale`.
        batch_size (`int`, *optional*, defaults to 256): windows at once.

    Example:
        >>> values = np.arange(8.0)[:, None]
        >>> windows = Windows(values, rows=range(2, 8), context_length=2, prediction_length=2)
        >>> baseline_errors(naive, windows)["mae"]
        1.5
    """
    sums = ErrorSums(scale=scale)
    for batch in windows.batches(batch_size):
        forecast, truth = baseline(batch["past_values"].double(), windows.prediction_length), batch["future_values"]
        if unscale is not None:
            forecast, truth = unscale(forecast), unscale(truth.double())
        sums.add(forecast, truth)
    return sums.errors()
