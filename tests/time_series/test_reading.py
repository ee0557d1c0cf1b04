"""Series from files, with their gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from hf_transfer.time_series.reading import read_series


def table(rows: int = 10) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "date": pd.date_range("2024-01-01", periods=rows, freq="h"),
            "load": random.normal(size=rows),
            "wind": random.integers(0, 9, rows),
        }
    )


@pytest.mark.parametrize("kind", ["csv", "semicolons", "tsv", "parquet", "index", "json", "folder", "splits"])
def test_every_format_gives_the_same_series(tmp_path, kind):
    made = table()
    path = tmp_path / "energy.csv"
    if kind == "csv":
        made.to_csv(path, index=False)
    elif kind == "semicolons":
        path.write_text("\ufeff" + made.to_csv(index=False, sep=";"), encoding="utf-8")
    elif kind == "tsv":
        path = tmp_path / "energy.tsv"
        made.to_csv(path, index=False, sep="\t")
    elif kind in ("parquet", "index"):
        path = tmp_path / "energy.parquet"
        (made.set_index("date") if kind == "index" else made).to_parquet(path, index=kind == "index")
    elif kind == "json":
        path = tmp_path / "energy.json"
        made.astype({"date": str}).to_json(path, orient="records", lines=True)
    else:
        path = tmp_path / "energy"
        parts = {"train": made[:6], "test": made[8:], "validation": made[6:8]}
        splits = DatasetDict({name: Dataset.from_pandas(part, preserve_index=False) for name, part in parts.items()})
        (splits if kind == "splits" else Dataset.from_pandas(made)).save_to_disk(path)
    series, report = read_series(path)
    assert np.array_equal(series.dates, made["date"].to_numpy().astype("datetime64[ns]"))
    assert np.allclose(series.values, made[["load", "wind"]].to_numpy(), rtol=1e-9)
    assert series.channels == ("load", "wind") and series.step == np.timedelta64(1, "h")
    assert (report.rows, report.gaps, report.missing) == (10, 0, {"load": 0, "wind": 0})
    if path.suffix:
        assert series.name == "energy" and report.date_column == "date"


def test_missing_dates_become_rows_of_missing_values_and_are_reported(tmp_path):
    made = table(20)
    made.loc[4, "load"] = np.nan
    made.drop([7, 8, 9, 15]).to_csv(tmp_path / "energy.csv", index=False)
    series, report = read_series(tmp_path / "energy.csv")
    assert len(series) == 20 and np.isnan(series.values[[7, 8, 9, 15]]).all()
    assert np.allclose(series.values[16:], made[["load", "wind"]].to_numpy()[16:])
    assert (report.rows, report.grid_rows, report.gaps, report.longest_gap) == (16, 20, 2, 3)
    assert report.missing == {"load": 5, "wind": 4}
    assert str(report).splitlines() == [
        "energy: 16 rows of 2 channels, every 1 hour from 2024-01-01T00 to 2024-01-01T19",
        "  2 gaps, the longest of 3 rows, put in as missing: 20 rows",
        "  missing values: load 5 (25.0 %), wind 4 (20.0 %)",
    ]


def test_gaps_can_be_refused(tmp_path):
    made = table(20)
    made.to_csv(tmp_path / "whole.csv", index=False)
    assert read_series(tmp_path / "whole.csv", gaps="refuse")[1].gaps == 0
    made.drop([7]).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(ValueError, match="has 1 gaps, the longest of 1 rows, and 2 missing.*T07:00.*gaps=.fill."):
        read_series(tmp_path / "rows.csv", gaps="refuse")
    made.loc[3, "load"] = np.nan
    made.to_csv(tmp_path / "values.csv", index=False)
    with pytest.raises(ValueError, match="has 0 gaps.* and 1 missing values, the first at 2024-01-01T03:00"):
        read_series(tmp_path / "values.csv", gaps="refuse")


def test_sessions_can_be_counted_in_place_of_time(tmp_path):
    days = pd.date_range("2024-01-01", periods=8, freq="B")
    hours = [day + pd.Timedelta(hours=hour) for day in days for hour in (9, 10, 11, 12)]
    pd.DataFrame({"time": hours, "price": np.arange(32.0)}).to_csv(tmp_path / "market.csv", index=False)
    with pytest.raises(ValueError, match="not regular.*gaps=.rows."):
        read_series(tmp_path / "market.csv")
    series, report = read_series(tmp_path / "market.csv", gaps="rows")
    assert len(series) == 32 and series.calendar == "rows" and report.gaps == 0
    assert str(report).startswith("market: 32 rows of 1 channel, counted in place of time")


def test_business_days_are_not_blown_up_by_weekends(tmp_path):
    days = pd.date_range("2024-01-01", periods=100, freq="B").delete([30])
    pd.DataFrame({"date": days, "price": np.arange(99.0)}).to_csv(tmp_path / "market.csv", index=False)
    series, report = read_series(tmp_path / "market.csv")
    assert len(series) == 100 and series.calendar == "business days" and report.gaps == 1


def test_rows_without_dates_are_counted_with_a_warning(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("hf_transfer.time_series.reading.logger.warning", said.append)
    table()[["load", "wind"]].to_csv(tmp_path / "energy.csv", index=False)
    series, report = read_series(tmp_path / "energy.csv")
    assert series.calendar == "rows" and report.date_column is None and len(series) == 10
    assert "no column of dates" in said[0] and "equally far" in said[0]


def test_columns_can_be_chosen_and_the_rest_is_reported(tmp_path):
    made = table().assign(site="Rome", sent="2020-01-01")
    made.to_csv(tmp_path / "energy.csv", index=False)
    series, report = read_series(tmp_path / "energy.csv", channels=["wind"], date_column="date")
    assert series.channels == ("wind",) and report.dropped == ()
    assert str(read_series(tmp_path / "energy.csv")[1]).endswith("columns left out: site, sent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made[::-1], "dates of column `date` go back"),
        (lambda made: pd.concat([made, made[2:3]]), "1 dates of column `date` come twice"),
        (lambda made: made.assign(wind=4), "`wind` never changes.*channels=..load.."),
        (lambda made: made.assign(wind=np.nan), "`wind` has no value at all"),
        (lambda made: made.assign(wind=np.inf), "`wind` is infinite in row 1, one of 10"),
        (lambda made: made.assign(date=[*made["date"].astype(str)[:9], "never"]), "Row 10 of column `date`.*`never`"),
        (lambda made: made[:1].assign(wind=[1.0]), "never changes"),
        (lambda made: made[:0], "has no rows: there is no series"),
        (lambda made: made.assign(wind=[*made["wind"][:9].astype(str), "broken"]), "`broken` in row 10"),
    ],
)
def test_bad_input_is_refused_at_reading(tmp_path, change, message):
    change(table()).to_csv(tmp_path / "energy.csv", index=False)
    with pytest.raises(ValueError, match=message):
        read_series(tmp_path / "energy.csv")


def test_unknown_names_and_rules_are_refused(tmp_path):
    with pytest.raises(ValueError, match='gaps="drop" is unknown.*`fill`, `refuse`, `rows`'):
        read_series("embedded:series/source", gaps="drop")
    with pytest.raises(ValueError, match="no embedded series `series/none`.*`embedded:series/source`"):
        read_series("embedded:series/none")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_series(tmp_path / "none.csv")


def test_embedded_series_are_read_like_files():
    series, report = read_series("embedded:series/target", channels=["c", "a"])
    assert series.channels == ("c", "a") and report.gaps == 1 and report.rows == 1188
    with pytest.raises(ValueError, match=r"channels=\['z'\] are not different columns"):
        read_series("embedded:series/target", channels=["z"])
    with pytest.raises(ValueError, match="`series/target` has 1 gaps"):
        read_series("embedded:series/target", gaps="refuse")
    assert read_series("embedded:series/source", gaps="refuse")[1].rows == 4000
