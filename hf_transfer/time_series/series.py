"""A series on a grid of dates: what is read, split, scaled and cut into windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


__all__ = ["BUSINESS_DAYS", "ROWS", "Series", "months_in", "seasonal_period", "step_name"]

BUSINESS_DAYS = "business days"
"""Calendar of Monday to Friday."""

ROWS = "rows"
"""Calendar of rows that are taken to be equally far apart, whatever their dates."""

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
_WEEK, _DAY = 7 * 86_400, 86_400


@dataclass(frozen=True)
class Series:
    """
    Several channels over time, on a grid without holes: a row whose date was not in the file holds NaN.

    Args:
        name (`str`): what messages and reports call it.
        dates (`np.ndarray`): `(N,)` datetime64[ns], strictly increasing.
        values (`np.ndarray`): `(N, C)` float64 in the units of the file, NaN where missing.
        channels (`tuple[str, ...]`): names of the `C` channels.
        step (`np.timedelta64`, *optional*): time between two rows; None where the calendar says it.
        calendar (`str`, *optional*):
            What a step is where it is not always equally long: `"business days"`, `"months"`, `"3 months"`
            and so on, or `"rows"` where rows are counted in place of time.

    Raises:
        ValueError: if shapes do not fit together or dates do not increase.

    Example:
        >>> dates = np.arange("2020-01-01", "2020-01-04", dtype="datetime64[D]").astype("datetime64[ns]")
        >>> series = Series("sales", dates, np.ones((3, 1)), ("shop",), np.timedelta64(1, "D"))
        >>> len(series), series.future_dates(1)
        (3, array(['2020-01-04T00:00:00.000000000'], dtype='datetime64[ns]'))
    """

    name: str
    dates: np.ndarray
    values: np.ndarray
    channels: tuple[str, ...]
    step: np.timedelta64 | None
    calendar: str | None = None

    def __post_init__(self) -> None:
        shape = (len(self.dates), len(self.channels))
        if self.values.shape != shape or not self.values.size:
            raise ValueError(
                f"Series `{self.name}` has values of shape {self.values.shape} for {shape[0]} dates and {shape[1]} "
                "channels: rows and columns could not be told apart. Pass values (N, C), one row a date."
            )
        if len(self.dates) > 1 and not (np.diff(self.dates) > np.timedelta64(0, "ns")).all():
            raise ValueError(
                f"The dates of series `{self.name}` do not increase: past and future could not be told apart. "
                "Sort the rows by date, one row a date."
            )
        if (self.step is None) == (self.calendar is None):
            raise ValueError(
                f"Series `{self.name}` has step {self.step} and calendar {self.calendar}: the date of the next row "
                "needs exactly one of them. Leave the other None."
            )

    @property
    def dated(self) -> bool:
        """Whether its dates mean something: where a file has none, rows are numbered by days from 1970 on."""
        return self.calendar != ROWS or self.dates[0] != np.datetime64(0, "ns")

    def place(self, row: int, *, unit: Literal["D", "m"] = "D") -> str:
        """
        Where a row is, for a report: its date, or its number in a series without dates.

        Args:
            row (`int`): from 0.
            unit (`str`, *optional*, defaults to `"D"`): day or minute.
        """
        return str(self.dates[row].astype(f"datetime64[{unit}]")) if self.dated else f"row {row:,}"

    def __len__(self) -> int:
        return len(self.dates)

    def future_dates(self, count: int) -> np.ndarray:
        """
        The `count` dates after the last one, `(count,)` datetime64[ns].

        Args:
            count (`int`): how many rows on.
        """
        ahead, last = np.arange(1, count + 1), self.dates[-1]
        if self.step is not None:
            return last + ahead * self.step.astype("timedelta64[ns]")
        if self.calendar == BUSINESS_DAYS:
            days = np.busday_offset(last.astype("datetime64[D]"), ahead, roll="backward")
            return days.astype("datetime64[ns]") + (last - last.astype("datetime64[D]"))
        if self.calendar == ROWS:
            usual = np.median(np.diff(self.dates).astype(np.int64)) if len(self) > 1 else 86_400_000_000_000
            return last + ahead * np.timedelta64(int(usual), "ns")
        month = last.astype("datetime64[M]")
        at_end = bool((_next_days(self.dates) == 1).all())
        later = month + ahead * months_in(self.calendar)
        if at_end:
            return ((later + 1).astype("datetime64[D]") - 1).astype("datetime64[ns]")
        return later.astype("datetime64[ns]") + (last - month)


def step_name(series: Series) -> str:
    """
    The step in words, such as `"1 hour"`, `"15 minutes"`, `"business days"` or `"months"`.

    Example:
        >>> dates = np.array(["2020-01-01T00", "2020-01-01T06"], dtype="datetime64[ns]")
        >>> step_name(Series("wind", dates, np.zeros((2, 1)), ("speed",), np.timedelta64(6, "h")))
        '6 hours'
    """
    if series.step is None:
        return str(series.calendar)
    nanoseconds = int(series.step.astype("timedelta64[ns]").astype(np.int64))
    for unit, seconds in _UNITS:
        count, rest = divmod(nanoseconds, seconds * 1_000_000_000)
        if not rest:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{nanoseconds} nanoseconds"


def months_in(calendar: str | None) -> int:
    """
    Months between two rows of a calendar of months, 0 for any other.

    Example:
        >>> months_in("months"), months_in("3 months"), months_in("business days")
        (1, 3, 0)
    """
    words = str(calendar).split()
    if not words or words[-1] != "months":
        return 0
    return int(words[0]) if len(words) == 2 else 1


def seasonal_period(series: Series) -> int:
    r"""
    Rows after which a series of this step is usually alike.

    A day of rows below a day (24 for hours, 96 for quarters of an hour), a week of days (7; 5 business days), a year
    of weeks (52), months (12) or quarters (4). 1, which makes the seasonal naive forecast the naive one, where the
    step says nothing: years, other steps, and rows without dates.

    Args:
        series ([`Series`]): of which only step and calendar are looked at.

    Relations:
        [`hf_transfer.time_series.baselines.seasonal_naive`] and [`hf_transfer.time_series.accuracy.seasonal_scale`]
        take it; data with another period (a week of hours: 168) take that.

    Example:
        >>> dates = np.array(["2020-01-01T00", "2020-01-01T01"], dtype="datetime64[ns]")
        >>> seasonal_period(Series("load", dates, np.zeros((2, 1)), ("grid",), np.timedelta64(1, "h")))
        24
    """
    if series.calendar == BUSINESS_DAYS:
        return 5
    months = months_in(series.calendar)
    if months:
        return 12 // months if 12 % months == 0 else 1
    if series.step is None:
        return 1
    seconds = series.step / np.timedelta64(1, "s")
    if seconds == _WEEK:
        return 52
    cycle = _DAY if seconds < _DAY else _WEEK
    return round(cycle / seconds) if cycle % seconds == 0 else 1


def _next_days(dates: np.ndarray) -> np.ndarray:
    """Day of the month on the day after each date: 1 for the ends of months."""
    tomorrow = dates.astype("datetime64[D]") + 1
    return (tomorrow - tomorrow.astype("datetime64[M]")).astype(int) + 1
