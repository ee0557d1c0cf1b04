"""How far forecasts are off: MSE, MAE and MASE over what was observed, in all and by horizon."""

from __future__ import annotations

from typing import Any

import numpy as np


__all__ = ["NAMED_HORIZONS", "ErrorSums", "forecast_errors", "seasonal_scale"]

NAMED_HORIZONS = (1, 6, 12, 24, 48, 96, 192, 336, 720)
"""Steps whose errors have a name of their own, such as `mse_at_24`; the last step of a forecast has one too."""


class ErrorSums:
    r"""
    Errors of forecasts that come in batches, without keeping them.

    Over the observed entries $O$ of the truth $y_{bhc}$ (window, step, channel) with forecast $\hat y_{bhc}$,

    $$ \mathrm{MSE} = \frac{1}{|O|} \sum_O (y - \hat y)^2, \quad \mathrm{MAE} = \frac{1}{|O|} \sum_O |y - \hat y|,
       \quad \mathrm{MASE} = \frac{1}{|O|} \sum_O \frac{|y_{bhc} - \hat y_{bhc}|}{q_c} $$

    where $q_c$ is the error of the seasonal naive forecast within the training part, of [`seasonal_scale`]. Sums are
    in float64.

    Args:
        scale (`np.ndarray`, *optional*):
            `(C,)` $q_c$, in the units of the forecasts, positive.

    Degenerate cases:
        A step at which nothing was observed has NaN. A forecast that is not finite makes the errors so.

    Raises:
        ValueError: if shapes differ, the scale is not positive, or nothing at all was observed.

    Relations:
        [`forecast_errors`] for arrays at hand.

    Example:
        >>> sums = ErrorSums()
        >>> sums.add(np.zeros((1, 2, 1)), np.array([[[1.0], [3.0]]]))
        >>> errors = sums.errors()
        >>> errors["mse"], errors["mae"], errors["mse_at_1"], errors["mse_by_horizon"]
        (5.0, 2.0, 1.0, array([1., 9.]))

    Paper: Hyndman and Koehler, "Another look at measures of forecast accuracy", International Journal of Forecasting
    2006, https://doi.org/10.1016/j.ijforecast.2006.03.001
    """

    def __init__(self, *, scale: np.ndarray | None = None) -> None:
        self._scale = None if scale is None else np.asarray(scale, dtype=np.float64)
        if self._scale is not None and (self._scale.ndim != 1 or not (self._scale > 0).all()):
            raise ValueError(
                f"scale={self._scale} is not one positive number a channel: errors cannot be counted in units of it. "
                "Pass what `seasonal_scale` gives."
            )
        self._sums: dict[str, np.ndarray] = {}
        self._counts = np.zeros(0)

    def add(self, forecast: Any, truth: Any) -> None:
        """
        Count in a batch.

        Args:
            forecast (array or tensor): `(B, H, C)`.
            truth (array or tensor): `(B, H, C)` in the same units, NaN where not observed.
        """
        predicted, wanted = np.asarray(forecast, dtype=np.float64), np.asarray(truth, dtype=np.float64)
        self._check(predicted, wanted)
        observed = ~np.isnan(wanted)
        error = np.where(observed, np.abs(predicted - np.where(observed, wanted, 0)), 0)
        parts = {"mse": error**2, "mae": error}
        if self._scale is not None:
            parts["mase"] = error / self._scale
        for name, part in parts.items():
            self._sums[name] = self._sums.get(name, 0) + part.sum((0, 2))
        self._counts = observed.sum((0, 2)) + (self._counts if len(self._counts) else 0)

    def errors(self) -> dict[str, Any]:
        """
        `mse`, `mae`, with a scale `mase`; each also `..._at_H` for the [`NAMED_HORIZONS`] and the last step, and
        `..._by_horizon`, an array `(H,)`.
        """
        total = self._counts.sum()
        if not total:
            raise ValueError(
                "None of the values to forecast was observed: there is no error to speak of. Evaluate on rows that "
                "hold values, or look at the gaps in the report of `read_series`."
            )
        found: dict[str, Any] = {name: float(sums.sum() / total) for name, sums in self._sums.items()}
        steps = [step for step in NAMED_HORIZONS if step < len(self._counts)] + [len(self._counts)]
        counts = np.where(self._counts > 0, self._counts, np.nan)
        for name, sums in self._sums.items():
            by_horizon = sums / counts
            found |= {f"{name}_at_{step}": float(by_horizon[step - 1]) for step in steps}
            found[f"{name}_by_horizon"] = by_horizon
        return found

    def _check(self, forecast: np.ndarray, truth: np.ndarray) -> None:
        fits = not len(self._counts) or len(self._counts) == truth.shape[1]
        if forecast.shape != truth.shape or truth.ndim != 3 or not fits:
            raise ValueError(
                f"A forecast of shape {forecast.shape} cannot be compared with truth of shape {truth.shape}"
                f"{'' if fits else f' after batches of {len(self._counts)} steps'}: errors are taken entry by entry. "
                "Pass both as (B, H, C), the same for every batch."
            )
        if self._scale is not None and len(self._scale) != truth.shape[2]:
            raise ValueError(
                f"The scale has {len(self._scale)} channels, the forecast {truth.shape[2]}: an error would be counted "
                "in units of another channel. Pass one number a channel."
            )


def forecast_errors(forecast: Any, truth: Any, *, scale: np.ndarray | None = None) -> dict[str, Any]:
    """
    Errors of forecasts over what was observed: those of [`ErrorSums`], in the units of what is passed.

    Args:
        forecast (array or tensor): `(B, H, C)`.
        truth (array or tensor): `(B, H, C)`, NaN where not observed.
        scale (`np.ndarray`, *optional*): `(C,)` from [`seasonal_scale`], in the same units, for MASE.

    Raises:
        ValueError: as [`ErrorSums`] does.

    Example:
        >>> errors = forecast_errors(np.zeros((1, 1, 1)), np.full((1, 1, 1), 2.0), scale=np.array([4.0]))
        >>> errors["mse"], errors["mae"], errors["mase"]
        (4.0, 2.0, 0.5)
    """
    sums = ErrorSums(scale=scale)
    sums.add(forecast, truth)
    return sums.errors()


def seasonal_scale(values: np.ndarray, period: int = 1) -> np.ndarray:
    r"""
    In-sample error of the seasonal naive forecast, the unit of MASE:
    $q_c = \operatorname{mean}_t |y_{tc} - y_{t-m,c}|$ over the $t$ where both are observed.

    Args:
        values (`np.ndarray`): `(N, C)` the training rows, `parts.known`, in the units errors are measured in.
        period (`int`, *optional*, defaults to 1): rows $m$ of a season; 1 for the naive forecast.

    Raises:
        ValueError: if the period is not within the rows, or a channel repeats itself exactly or has no two values a
            period apart: MASE would divide by zero.

    Example:
        >>> seasonal_scale(np.array([[0.0], [1.0], [4.0], [1.0]]), period=2)
        array([2.])
    """
    if not 1 <= period < len(values):
        raise ValueError(
            f"period={period} with {len(values)} training rows: no two rows are a period apart, and MASE has no unit. "
            "Pass a period shorter than the training part."
        )
    difference = np.abs(values[period:] - values[:-period]).astype(np.float64)
    counts = (~np.isnan(difference)).sum(0)
    scale = np.nansum(difference, axis=0) / np.maximum(counts, 1)
    bad = np.flatnonzero(~(scale > 0))
    if len(bad):
        raise ValueError(
            f"Channel number {bad[0]} repeats itself exactly after {period} rows, or has no two values {period} rows "
            "apart: MASE would divide by zero. Leave the channel out, or pass another period."
        )
    return scale
