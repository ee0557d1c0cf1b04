"""A share of the target series: its rows in time, the scaling of what is learned from, and windows of each part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_transfer.time_series.accuracy import seasonal_scale
from hf_transfer.time_series.processor import SeriesProcessor
from hf_transfer.time_series.scored import Units
from hf_transfer.time_series.series import Series
from hf_transfer.time_series.splits import SeriesParts, split_by_time
from hf_transfer.time_series.windows import Windows


__all__ = ["Share", "before", "shares_of", "units_of"]


@dataclass(frozen=True)
class Share:
    """
    What is learned from with one share of the training rows.

    Args:
        share (`float`): of the training rows, in (0, 1].
        parts ([`SeriesParts`]): target rows of the three parts.
        processor ([`SeriesProcessor`]): fitted on the rows that are kept, and no others.
        train, eval, test ([`Windows`]): scaled by it.
    """

    share: float
    parts: SeriesParts
    processor: SeriesProcessor
    train: Windows
    eval: Windows
    test: Windows


def shares_of(
    series: Series,
    shares: list[float],
    *,
    context_length: int,
    prediction_length: int,
    lengths: tuple[int, int, int] | None = None,
) -> dict[float, Share]:
    """
    Every share of a series; evaluation and test part are the same in all.

    Args:
        series ([`Series`]): the target.
        shares (`list[float]`): each in (0, 1].
        context_length, prediction_length (`int`): rows of a window.
        lengths (`tuple[int, int, int]`, *optional*): rows of the parts, as for [`split_by_time`].

    Raises:
        ValueError: if a part holds no window, or a channel is constant in what is kept.
    """
    shape: dict[str, Any] = {"context_length": context_length, "prediction_length": prediction_length}
    found = {}
    for share in shares:
        parts = split_by_time(series, **shape, lengths=lengths, few=share)
        processor = SeriesProcessor.fitted(series, parts.train, **shape)
        scaled = processor.scale(series.values)
        windows = [Windows(scaled, rows=rows, **shape) for rows in (parts.train, parts.eval, parts.test)]
        found[share] = Share(share, parts, processor, *windows)
    return found


def units_of(series: Series, known: range, season: int) -> Units:
    """
    The units of errors, from the whole training part.

    Args:
        series ([`Series`]): the target.
        known (`range`): rows of the whole training part.
        season (`int`): rows of a season.

    Raises:
        ValueError: if the part is no longer than a season, or a channel repeats itself exactly.
    """
    values = series.values[known.start : known.stop]
    return Units(np.nanstd(values, axis=0), seasonal_scale(values, season))


def before(source: Series, moment: np.datetime64, *, learned: float = 0.8) -> Series:
    """
    A source series cut so that its first 80 %, from which pretraining learns, end before a moment of the target.

    A source that covers the test of the target, as a second station of the same days does, would tell of these days.
    One that lies wholly before or after it is left as it is: there is nothing of those days in it.

    Args:
        source ([`Series`]): to pretrain on.
        moment (`np.datetime64`): date of the first test row of the target.
        learned (`float`, *optional*, defaults to 0.8): share of its rows that pretraining looks at.

    Example:
        >>> dates = np.arange(100).astype("datetime64[D]").astype("datetime64[ns]")
        >>> source = Series("other", dates, np.zeros((100, 1)), ("a",), np.timedelta64(1, "D"))
        >>> len(before(source, dates[40])), len(before(source, dates[90])), len(before(source, dates[-1] + 1))
        (50, 100, 100)
    """
    if not source.dates[0] < moment <= source.dates[-1]:
        return source
    rows = min(int(np.searchsorted(source.dates, moment) / learned), len(source))
    return Series(
        source.name, source.dates[:rows], source.values[:rows], source.channels, source.step, source.calendar
    )
