"""Which column holds the dates, and what they are."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest

from hf_transfer.time_series.dates import find_date_column, read_dates


DAYS = np.array(["2024-01-30", "2024-01-31", "2024-02-01"], dtype="datetime64[ns]")


@pytest.mark.parametrize(
    "entries",
    [
        ["2024-01-30", "2024-01-31", "2024-02-01"],
        ["2024-01-30 00:00:00", "2024-01-31 00:00", "2024-02-01T00:00:00.000"],
        ["30/01/2024", "31/01/2024", "01/02/2024"],
        ["01/30/2024", "01/31/2024", "02/01/2024"],
        ["30.01.2024", "31.01.2024", "01.02.2024"],
        ["Jan 30, 2024", "Jan 31, 2024", "Feb 1, 2024"],
        ["2024-01-30T01:00+01:00", "2024-01-31T02:00+02:00", "2024-02-01T00:00Z"],
        [20240130, 20240131, 20240201],
        [datetime.date(2024, 1, 30), datetime.date(2024, 1, 31), datetime.date(2024, 2, 1)],
        list(pd.to_datetime(DAYS)),
        list(pd.to_datetime(DAYS).tz_localize("UTC").tz_convert("Europe/Berlin")),
    ],
)
def test_dates_are_read_in_the_ways_they_are_written(entries):
    dates = read_dates(pd.Series(entries), "date")
    assert dates.dtype == "datetime64[ns]" and np.array_equal(dates, DAYS)


def test_years_are_dates():
    years = read_dates(pd.Series([1999, 2000]), "year")
    assert years.astype("datetime64[D]").tolist() == [datetime.date(1999, 1, 1), datetime.date(2000, 1, 1)]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"load": [1.0], "Date": ["2024-01-01"]}, "Date"),
        ({"load": [1.0], "Time": ["2024-01-01"], "date": ["2024-01-01"]}, "date"),
        ({"Date": ["2024-01-01"], "stamp": pd.to_datetime(["2024-01-01"])}, "stamp"),
        ({"first": pd.to_datetime(["2024-01-01"]), "ds": pd.to_datetime(["2024-01-01"])}, "ds"),
        ({"shop": ["Rome"], "when": ["2024-01-01"]}, "when"),
        ({"year": [1999], "price": [3.0]}, "year"),
        ({"shop": ["Rome"], "price": [3.0]}, None),
        ({"price": [3.0], "day": [np.nan]}, None),
    ],
)
def test_the_column_is_found_by_type_by_name_or_by_what_it_holds(columns, found):
    assert find_date_column(pd.DataFrame(columns)) == found


def test_the_given_column_is_taken_if_it_is_there():
    table = pd.DataFrame({"date": ["2024-01-01"], "other": ["2024-01-02"]})
    assert find_date_column(table, "other") == "other"
    with pytest.raises(ValueError, match="no column `when` to take dates from; the table has `date`, `other`.*Pass"):
        find_date_column(table, "when")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["2024-01-01", None, "2024-01-03"], "no date in 1 of 3 rows, the first in row 2.*Fill the dates in"),
        (["2024-01-01", "2024-01-02", "soon"], "Row 3 of column `date` holds `soon`, which is no date.*ISO 8601"),
        (["2024-01-01", "2024-02-30"], "Row 2 of column `date` holds `2024-02-30`.*no place in time"),
        (["1066-10-14", "1066-10-15"], "Row 1 of column `date` holds `1066-10-14`.*from 1678 to 2261"),
        (["2024-01-01", "15 seconds"], "Row 2 of column `date` holds `15 seconds`"),
        (["01/02/2024", "02/02/2024"], "such as `01/02/2024`.*day and month or month and day.*Write dates as 2024"),
        ([0.0, 0.5], "holds the numbers 0.0 to 0.5, which are neither years nor days.*what they count.*unit="),
        ([20240230, 20240301], "holds the numbers 20240230 to 20240301"),
        ([1700000000, 1700003600], "holds the numbers 1700000000"),
    ],
)
def test_what_is_no_date_is_refused_with_its_row(entries, message):
    with pytest.raises(ValueError, match=message):
        read_dates(pd.Series(entries), "date")
