"""A series, its dates to come and its season."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.time_series.series import ROWS, Series, months_in, seasonal_period, step_name
from tests.time_series.made import series_of


def dated(dates: list[str], *, step=None, calendar=None) -> Series:
    stamps = np.array(dates, dtype="datetime64[ns]")
    return Series("made", stamps, np.zeros((len(dates), 1)), ("one",), step, calendar)


@pytest.mark.parametrize(
    ("dates", "calendar", "following"),
    [
        (["2024-01-04T09", "2024-01-05T09"], "business days", ["2024-01-08T09", "2024-01-09T09"]),
        (["2023-11-30", "2023-12-31"], "months", ["2024-01-31", "2024-02-29"]),
        (["2023-10-15T06", "2023-12-15T06"], "2 months", ["2024-02-15T06", "2024-04-15T06"]),
        (["2022-01-01", "2023-01-01"], "12 months", ["2024-01-01", "2025-01-01"]),
        (["2024-01-01", "2024-01-03"], "rows", ["2024-01-05", "2024-01-07"]),
    ],
)
def test_dates_to_come_follow_the_calendar(dates, calendar, following):
    assert dated(dates, calendar=calendar).future_dates(2).tolist() == dated(following, calendar="rows").dates.tolist()


def test_dates_to_come_are_steps_apart():
    made = series_of(np.zeros((3, 1)), step=np.timedelta64(15, "m"))
    assert np.array_equal(made.future_dates(2) - made.dates[-1], np.array([15, 30], dtype="timedelta64[m]"))


@pytest.mark.parametrize(
    ("step", "calendar", "words", "period"),
    [
        (np.timedelta64(15, "m"), None, "15 minutes", 96),
        (np.timedelta64(1, "h"), None, "1 hour", 24),
        (np.timedelta64(7, "h"), None, "7 hours", 1),
        (np.timedelta64(1, "D"), None, "1 day", 7),
        (np.timedelta64(7, "D"), None, "7 days", 52),
        (np.timedelta64(10, "D"), None, "10 days", 1),
        (np.timedelta64(1500, "ms"), None, "1500000000 nanoseconds", 57600),
        (None, "business days", "business days", 5),
        (None, "months", "months", 12),
        (None, "3 months", "3 months", 4),
        (None, "5 months", "5 months", 1),
        (None, "12 months", "12 months", 1),
        (None, "rows", "rows", 1),
    ],
)
def test_the_step_tells_its_name_and_season(step, calendar, words, period):
    made = dated(["2024-01-01"], step=step, calendar=calendar)
    assert (step_name(made), seasonal_period(made)) == (words, period)


def test_only_months_have_months():
    assert [months_in(calendar) for calendar in ("rows", None, "months", "6 months")] == [0, 0, 1, 6]


def test_a_series_must_hold_together():
    dates = np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[ns]")
    day = np.timedelta64(1, "D")
    with pytest.raises(ValueError, match=r"shape \(2, 3\) for 2 dates and 1 channels.*told apart.*\(N, C\)"):
        Series("made", dates, np.zeros((2, 3)), ("a",), day)
    with pytest.raises(ValueError, match="dates of series `made` do not increase.*past and future.*Sort"):
        Series("made", dates[::-1], np.zeros((2, 1)), ("a",), day)
    with pytest.raises(ValueError, match="step None and calendar None.*exactly one.*Leave the other"):
        Series("made", dates, np.zeros((2, 1)), ("a",), None)


def test_rows_without_dates_are_told_by_their_number():
    days = np.arange(3).astype("datetime64[D]").astype("datetime64[ns]")
    numbered = Series("n", days, np.ones((3, 1)), ("a",), None, ROWS)
    assert not numbered.dated and numbered.place(2) == "row 2"
    sessions = Series("s", days + np.timedelta64(9000, "D"), np.ones((3, 1)), ("a",), None, ROWS)
    assert sessions.dated and sessions.place(2) == "1994-08-25" and sessions.place(0, unit="m") == "1994-08-23T00:00"
    assert Series("d", days, np.ones((3, 1)), ("a",), np.timedelta64(1, "D")).dated
