"""The grid of dates that the rows of a series lie on, and the rows that are missing from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_transfer.time_series.series import BUSINESS_DAYS, ROWS


__all__ = ["Grid", "find_grid", "numbered_rows"]

_DAY_NS = 86_400_000_000_000
_MOST_MISSING = 0.5


@dataclass(frozen=True)
class Grid:
    """
    All dates there should be, and which of them the rows have.

    Args:
        dates (`np.ndarray`): `(N,)` datetime64[ns].
        places (`np.ndarray`): `(R,)` the place on the grid of each row of the file.
        step (`np.timedelta64`, *optional*): time from one to the next; None for a calendar.
        calendar (`str`, *optional*): `"business days"`, `"months"` and so on, or `"rows"`.

    Example:
        >>> grid = find_grid(np.array(["2024-01-01", "2024-01-02", "2024-01-04"], dtype="datetime64[ns]"), "mine")
        >>> len(grid.dates), grid.gap_lengths()
        (4, array([1]))
    """

    dates: np.ndarray
    places: np.ndarray
    step: np.timedelta64 | None
    calendar: str | None = None

    def gap_lengths(self) -> np.ndarray:
        """Missing rows of each gap, in order of time."""
        between = np.diff(self.places) - 1
        return between[between > 0]


def numbered_rows(dates: np.ndarray) -> Grid:
    """
    Rows counted in place of time, whatever their dates.

    Args:
        dates (`np.ndarray`): `(N,)` datetime64[ns].
    """
    return Grid(dates, np.arange(len(dates)), None, ROWS)


def find_grid(dates: np.ndarray, name: str) -> Grid:
    """
    The calendar or the step of increasing dates.

    In this order: months, where all rows are at the same day of the month or at its end, and at least four weeks
    apart (every so many months; years are 12); business days, where rows are a day apart and none is on a weekend
    that the series spans; else the largest step that all rows are a multiple of apart.

    Args:
        dates (`np.ndarray`): `(R,)` datetime64[ns], increasing.
        name (`str`): what messages call the series.

    Raises:
        ValueError: if there is one row only, or more than half of the grid would be missing.

    Example:
        >>> find_grid(np.array(["2024-01-31", "2024-02-29", "2024-03-31"], dtype="datetime64[ns]"), "mine").calendar
        'months'
    """
    if len(dates) < 2:
        raise ValueError(
            f"Series `{name}` has one row: there is no step in time, and nothing to forecast. Give a longer series."
        )
    grid = _months(dates) or _business_days(dates)
    if grid is not None:
        _check_density(len(grid.dates), dates, name)
        return grid
    offsets = (dates - dates[0]).astype(np.int64)
    step = int(np.gcd.reduce(np.diff(offsets)))
    rows = int(offsets[-1]) // step + 1
    _check_density(rows, dates, name)
    whole = dates[0] + np.arange(rows) * np.timedelta64(step, "ns")
    return Grid(whole, offsets // step, np.timedelta64(step, "ns"))


def _months(dates: np.ndarray) -> Grid | None:
    days, months = dates.astype("datetime64[D]"), dates.astype("datetime64[M]")
    tomorrow = days + 1
    at_end = bool((tomorrow == tomorrow.astype("datetime64[M]")).all())
    within = dates - (days if at_end else months)
    numbers = months.astype(np.int64)
    if numbers[0] == numbers[-1] or (np.diff(numbers) < 1).any() or (within != within[0]).any():
        return None
    if np.diff(dates).min() < np.timedelta64(28, "D"):
        return None
    step = int(np.gcd.reduce(np.diff(numbers)))
    whole = months[0] + np.arange(0, numbers[-1] - numbers[0] + 1, step)
    starts = (whole + 1).astype("datetime64[D]") - 1 if at_end else whole
    return Grid(
        starts.astype("datetime64[ns]") + within[0],
        (numbers - numbers[0]) // step,
        None,
        "months" if step == 1 else f"{step} months",
    )


def _business_days(dates: np.ndarray) -> Grid | None:
    days = dates.astype("datetime64[D]")
    time_of_day = dates - days
    span = np.arange(days[0], days[-1] + 1)
    apart = np.diff(days).astype(np.int64)
    if (time_of_day != time_of_day[0]).any() or not (apart == 1).any():
        return None
    if np.is_busday(span).all() or not np.is_busday(days).all():
        return None
    whole = span[np.is_busday(span)]
    return Grid(whole.astype("datetime64[ns]") + time_of_day[0], np.busday_count(days[0], days), None, BUSINESS_DAYS)


def _check_density(rows: int, dates: np.ndarray, name: str) -> None:
    if len(dates) >= (1 - _MOST_MISSING) * rows:
        return
    apart = np.diff(dates).astype(np.int64)
    steps, counts = np.unique(apart, return_counts=True)
    usual = int(steps[counts.argmax()])
    off = np.flatnonzero((dates - dates[0]).astype(np.int64) % usual)
    seen = (
        f"its most frequent step is {_in_words(usual)}, and {len(off)} of {len(dates)} rows are not a multiple of it "
        f"after the first, {dates[off[0]].astype('datetime64[s]')} for one"
        if len(off)
        else f"{rows} rows {_in_words(usual)} apart would lie between the first and the last, of which it has "
        f"{len(dates)}"
    )
    raise ValueError(
        f"Series `{name}` is not regular: {seen}. Most of a regular grid would be missing values. Resample it to "
        'equal steps (pandas: `table.resample("1h").mean()`), or pass gaps="rows" to count rows in place of time, as '
        "for sessions of a market."
    )


def _in_words(nanoseconds: int) -> str:
    if nanoseconds % _DAY_NS == 0:
        return f"{nanoseconds // _DAY_NS} d"
    return f"{nanoseconds / 1e9:g} s"
