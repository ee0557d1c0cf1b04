"""The grid of regular dates, months and business days."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hf_transfer.time_series.grid import find_grid, numbered_rows


def dates_of(start: str, count: int, frequency: str) -> np.ndarray:
    return pd.date_range(start, periods=count, freq=frequency).to_numpy().astype("datetime64[ns]")


@pytest.mark.parametrize(
    ("frequency", "step", "calendar"),
    [
        ("15min", np.timedelta64(15, "m"), None),
        ("h", np.timedelta64(1, "h"), None),
        ("D", np.timedelta64(1, "D"), None),
        ("W", np.timedelta64(7, "D"), None),
        ("30D", np.timedelta64(30, "D"), None),
        ("B", None, "business days"),
        ("MS", None, "months"),
        ("ME", None, "months"),
        ("QS", None, "3 months"),
        ("QE", None, "3 months"),
        ("YS", None, "12 months"),
        ("YE", None, "12 months"),
    ],
)
@pytest.mark.parametrize("holes", [[], [5, 6, 11]])
def test_the_grid_of_pandas_is_found_again_with_its_holes(frequency, step, calendar, holes):
    whole = dates_of("2023-01-31 06:00", 60, frequency)
    grid = find_grid(np.delete(whole, holes), "made")
    assert np.array_equal(grid.dates, whole) and (grid.step, grid.calendar) == (step, calendar)
    assert np.array_equal(grid.dates[grid.places], np.delete(whole, holes))
    assert grid.gap_lengths().tolist() == ([2, 1] if holes else [])


def test_weekends_are_no_gaps_of_business_days_but_holidays_are():
    days = np.setdiff1d(dates_of("2024-12-20", 10, "B"), np.array(["2024-12-25"], dtype="datetime64[ns]"))
    grid = find_grid(days, "made")
    assert grid.calendar == "business days" and grid.gap_lengths().tolist() == [1]


def test_daily_rows_with_a_weekend_are_not_business_days():
    assert find_grid(np.delete(dates_of("2024-01-01", 30, "D"), [10, 11]), "made").calendar is None
    # neither are five days that span no weekend
    assert find_grid(dates_of("2024-01-01", 5, "D"), "made").calendar is None


def test_the_same_day_of_each_month_is_a_calendar():
    days = np.array([f"2024-{month:02}-15T12" for month in (1, 2, 3, 5)], dtype="datetime64[ns]")
    grid = find_grid(days, "made")
    assert grid.calendar == "months" and len(grid.dates) == 5 and str(grid.dates[3])[:13] == "2024-04-15T12"


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        (["2024-01-01"], "Series `made` has one row: there is no step.*longer series"),
        (
            ["2024-01-01T00:00", "2024-01-01T01:00", "2024-01-01T02:07", "2024-01-01T03:00", "2024-01-01T04:00"],
            "not regular: its most frequent step is 3600 s, and 1 of 5 rows are not a multiple.*T02:07.*Resample",
        ),
        (
            ["2024-01-01", "2024-01-02", "2024-06-01"],
            "153 rows 1 d apart would lie between the first and the last, of which it has 3.*gaps=.rows.",
        ),
        (["2024-01-15", "2024-02-15", "2026-08-15"], "not regular"),
    ],
)
def test_what_has_no_grid_is_refused(dates, message):
    with pytest.raises(ValueError, match=message):
        find_grid(np.array(dates, dtype="datetime64[ns]"), "made")


def test_a_tiny_step_over_years_is_refused_before_memory_is_taken():
    dates = np.array(["2000-01-01T00:00:00.000000001", "2000-01-02", "2024-01-01"], dtype="datetime64[ns]")
    with pytest.raises(ValueError, match="not regular"):
        find_grid(dates, "made")


def test_rows_can_be_counted_whatever_their_dates():
    dates = np.array(["2024-01-01", "2024-01-02", "2024-06-01"], dtype="datetime64[ns]")
    grid = numbered_rows(dates)
    assert (grid.step, grid.calendar) == (None, "rows") and grid.places.tolist() == [0, 1, 2]
    assert len(grid.gap_lengths()) == 0
