"""Series for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_transfer.time_series.series import Series


HOUR = np.timedelta64(1, "h")


def series_of(values: np.ndarray, *, name: str = "made", channels: Sequence[str] = (), step=HOUR) -> Series:
    """Hours from 2020 on, with these values `(N, C)`."""
    names = tuple(channels) or tuple(f"c{number}" for number in range(values.shape[1]))
    dates = np.datetime64("2020-01-01", "ns") + np.arange(len(values)) * step
    return Series(name, dates, values.astype(np.float64), names, step)


def random_walk(rows: int, channels: int, *, seed: int = 0, missing: float = 0.0) -> np.ndarray:
    """`(N, C)`, a share of the values missing at random."""
    random = np.random.default_rng(seed)
    values = np.cumsum(random.normal(size=(rows, channels)), axis=0)
    values[random.random(values.shape) < missing] = np.nan
    return values
