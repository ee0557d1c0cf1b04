"""What is refused when a series is read."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from hf_transfer.time_series.checks import check_dates, check_values, choose_channels


def stamps(*dates: str) -> np.ndarray:
    return np.array(dates, dtype="datetime64[ns]")


def test_dates_in_order_pass():
    check_dates(stamps("2024-01-01", "2024-01-02"), "date")


def test_dates_that_go_back_are_refused_with_their_rows():
    with pytest.raises(
        ValueError, match=r"`date` go back: row 3 \(2024-01-02.*before row 2 \(2024-01-03.*sort_values"
    ):
        check_dates(stamps("2024-01-01", "2024-01-03", "2024-01-02"), "date")


def test_dates_that_come_twice_are_refused_with_their_rows():
    with pytest.raises(ValueError, match="1 dates of column `day` come twice.*2024-01-02.*rows 2 and 4.*table.pivot"):
        check_dates(stamps("2024-01-01", "2024-01-02", "2024-01-03", "2024-01-02"), "day")


def test_an_hour_that_clocks_repeat_is_called_so():
    hours = stamps("2023-10-29T01", "2023-10-29T02", "2023-10-29T02", "2023-10-29T03")
    with pytest.raises(ValueError, match="rows 2 and 3, in an hour that comes twice.*put back.*UTC.*ambiguous"):
        check_dates(hours, "date")
    # the same on a Wednesday is not
    with pytest.raises(ValueError, match="table.pivot"):
        check_dates(hours + np.timedelta64(3, "D"), "date")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2], [np.inf, 3]], "`a` is infinite in row 2, one of 1 such values.*which is missing"),
        ([[np.nan, 2], [np.nan, 3]], r"`a` has no value at all: .*channels=\['b'\]"),
        ([[1, 5], [2, 5]], r"`b` never changes: it cannot be scaled.*Pass channels=\['a'\] to leave it out"),
        ([[1, 5], [np.nan, 5]], "`a`, `b` never changes.*Give another series"),
    ],
)
def test_channels_that_teach_nothing_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        check_values(np.array(values, dtype=np.float64), ["a", "b"])


def test_numbers_are_channels_and_the_rest_is_left_out_by_name():
    table = pd.DataFrame(
        {
            "Unnamed: 0": [0, 1, 2],
            "date": ["x", "y", "z"],
            "load": [1.5, None, 2.5],
            "site": ["Rome", "Oslo", "Rome"],
            "open": [True, False, True],
            "price": [Decimal("1.5"), None, Decimal("2")],
        }
    )
    channels, dropped = choose_channels(table, "date", None)
    assert (channels, dropped) == (["load", "open", "price"], ["Unnamed: 0", "site"])


def test_what_is_left_out_is_warned_of(monkeypatch):
    said = []
    monkeypatch.setattr("hf_transfer.time_series.checks.logger.warning", said.append)
    choose_channels(pd.DataFrame({"load": [1.0], "site": ["Rome"]}), None, None)
    assert "`site`" in said[0] and "are left out" in said[0]
    said.clear()
    choose_channels(pd.DataFrame({"load": [1.0]}), None, None)
    assert not said


def test_channels_are_taken_in_the_order_given():
    table = pd.DataFrame({"a": [1.0], "b": [2.0], "c": ["x"]})
    assert choose_channels(table, None, ["b", "a"]) == (["b", "a"], [])
    assert choose_channels(table, None, "b") == (["b"], [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["1.5", "?", "2.5"], r"Column `load` holds `\?` in row 2, which is no number.*Leave the field empty"),
        (["1,5", "2,5", "3,5"], "holds `1,5` in row 1, which is no number.*decimals with a point"),
        (["1.5", "2.5", "3.5"], "holds `1.5` in row 1, which is a number written as text.*without quotes"),
    ],
)
def test_numbers_among_text_are_not_left_out_in_silence(entries, message):
    with pytest.raises(ValueError, match=message):
        choose_channels(pd.DataFrame({"load": entries, "wind": [1.0, 2.0, 3.0]}), None, None)


@pytest.mark.parametrize("channels", [["a", "z"], ["a", "a"], ["date"], []])
def test_channels_must_be_columns(channels):
    table = pd.DataFrame({"date": ["x"], "a": [1.0], "b": [2.0]})
    with pytest.raises(ValueError, match="are not different columns of numbers.*are `a`, `b`.*Pass some of these"):
        choose_channels(table, "date", channels)


def test_a_channel_of_words_or_a_table_without_numbers_is_refused():
    table = pd.DataFrame({"date": ["x"], "site": ["Rome"]})
    with pytest.raises(ValueError, match="Column `site` holds `Rome` in row 1, which is no number"):
        choose_channels(table, "date", ["site"])
    with pytest.raises(ValueError, match="None of the columns `site` holds numbers.*nothing to forecast"):
        choose_channels(table, "date", None)
