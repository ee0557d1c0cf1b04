"""`read_series`: a series from a file, the Hub or the embedded ones, on a regular grid, with a report of its gaps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.utils import logging

from hf_transfer.data.columns import listed
from hf_transfer.time_series.checks import check_dates, check_values, choose_channels
from hf_transfer.time_series.dates import find_date_column, read_dates
from hf_transfer.time_series.embedded import embedded_series
from hf_transfer.time_series.grid import Grid, find_grid, numbered_rows
from hf_transfer.time_series.series import Series, step_name


if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GAPS", "SeriesReport", "read_series"]

logger = logging.get_logger(__name__)

GAPS = ("fill", "refuse", "rows")
"""What becomes of dates without a row."""

_EMBEDDED = "embedded:"


@dataclass(frozen=True)
class SeriesReport:
    """
    What a series was read from, and what is missing from it.

    Args:
        name (`str`): of the series.
        rows (`int`): rows of the file.
        grid_rows (`int`): rows of the series, with those that the file lacked.
        step (`str`): time between rows in words.
        start (`np.datetime64`): first date.
        end (`np.datetime64`): last date.
        gaps (`int`): runs of dates without a row.
        longest_gap (`int`): rows that the longest run lacks.
        missing (`dict[str, int]`): missing values of each channel, those of missing rows included.
        date_column (`str`, *optional*): where dates were; None where rows were counted.
        dropped (`tuple[str, ...]`, *optional*): columns that are no channels.

    Example:
        >>> print(read_series("embedded:series/target")[1])
        series/target: 1188 rows of 3 channels, every 1 hour from 2020-06-17T00 to 2020-08-05T23
          1 gap, the longest of 12 rows, put in as missing: 1200 rows
          missing values: a 28 (2.3 %), b 28 (2.3 %), c 25 (2.1 %)
    """

    name: str
    rows: int
    grid_rows: int
    step: str
    start: np.datetime64
    end: np.datetime64
    gaps: int
    longest_gap: int
    missing: dict[str, int]
    date_column: str | None = None
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        unit = "h" if (self.start.astype("datetime64[h]") == self.start) and "minute" not in self.step else "s"
        first, last = (date.astype(f"datetime64[{unit}]") for date in (self.start, self.end))
        channels = f"{len(self.missing)} channel{'s' if len(self.missing) > 1 else ''}"
        lines = [f"{self.name}: {self.rows} rows of {channels}, every {self.step} from {first} to {last}"]
        if self.step == "rows":
            lines = [f"{self.name}: {self.rows} rows of {channels}, counted in place of time"]
        if self.gaps:
            lines.append(
                f"  {self.gaps} gap{'s' if self.gaps > 1 else ''}, the longest of {self.longest_gap} "
                f"row{'s' if self.longest_gap > 1 else ''}, put in as missing: {self.grid_rows} rows"
            )
        counts = [
            f"{name} {count} ({count / self.grid_rows:.1%})".replace("%", " %")
            for name, count in self.missing.items()
            if count
        ]
        lines.append(f"  missing values: {', '.join(counts)}" if counts else "  no missing values")
        if self.dropped:
            lines.append(f"  columns left out: {', '.join(self.dropped)}")
        return "\n".join(lines)


def read_series(
    name_or_path: str | os.PathLike[str],
    *,
    date_column: str | None = None,
    channels: Sequence[str] | None = None,
    gaps: str = "fill",
    config: str | None = None,
) -> tuple[Series, SeriesReport]:
    """
    Read a series, put it on the grid of its dates, and say what is missing.

    The step of the dates is found: regular, months, or business days, whose weekends are no gaps. Dates that have no
    row on this grid get one of missing values (NaN), so that a window always spans the same time.

    Args:
        name_or_path (`str` or path):
            A CSV, TSV or Parquet file, a Hub id or folder that `datasets` reads (its splits one after the other:
            train, validation, test), or `embedded:series/source`, `embedded:series/target`.
        date_column (`str`, *optional*):
            Where the dates are. By default the column of a date type, else one called date, datetime, timestamp,
            time, ds or year, else the first whose text is dates. A table without any is taken as rows equally far
            apart, with a warning.
        channels (`Sequence[str]`, *optional*):
            The columns to forecast, in this order. By default all that hold numbers; others are left out with a
            warning.
        gaps (`str`, *optional*, defaults to `"fill"`):
            `"fill"` puts missing rows in, `"refuse"` raises where a row or a value is missing, `"rows"` counts rows
            in place of time: the sessions of a market, say, whose nights and holidays are no gaps.
        config (`str`, *optional*):
            Configuration of a Hub data set.

    Raises:
        FileNotFoundError: if there is no such file or data set.
        ValueError: if dates cannot be read, go back, come twice or are not regular; if a channel is missing, is not
            made of numbers, is infinite somewhere, never observed or constant; if gaps are refused and there are some.

    Relations:
        [`split_by_time`] makes parts of it, [`SeriesProcessor`] scales it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "shop.csv"
        >>> _ = path.write_text("date,sales\\n2024-01-01,3\\n2024-01-02,4\\n2024-01-04,5\\n")
        >>> series, report = read_series(path)
        >>> series.values.ravel(), report.gaps
        (array([ 3.,  4., nan,  5.]), 1)
    """
    if gaps not in GAPS:
        raise ValueError(f'gaps="{gaps}" is unknown: dates without a row need a rule. Choose one of {listed(GAPS)}.')
    name = os.fspath(name_or_path)
    if name.startswith(_EMBEDDED):
        return _embedded(embedded_series(name.removeprefix(_EMBEDDED)), channels, gaps)
    table = _read_table(name, config)
    label = Path(name).stem if Path(name).suffix else name
    found = find_date_column(table, date_column)
    chosen, dropped = choose_channels(table, found, channels)
    values = np.stack([table[one].to_numpy(dtype=np.float64, na_value=np.nan) for one in chosen], axis=1)
    check_values(values, chosen)
    if found is None:
        grid = _without_dates(len(table), label)
    else:
        dates = read_dates(table[found], found)
        check_dates(dates, found)
        grid = numbered_rows(dates) if gaps == "rows" else find_grid(dates, label)
    whole = np.full((len(grid.dates), len(chosen)), np.nan)
    whole[grid.places] = values
    series = Series(label, grid.dates, whole, tuple(chosen), grid.step, grid.calendar)
    report = _report(series, grid, found, dropped)
    if gaps == "refuse":
        _refuse_gaps(series, grid, report)
    return series, report


def _read_table(name: str, config: str | None) -> pd.DataFrame:
    import pandas as pd

    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        with open(path, encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(",;\t|", key=header.count)
        table: Any = pd.read_csv(path, sep=separator, encoding="utf-8-sig")
    elif path.is_file() and path.suffix.lower() == ".parquet":
        table = pd.read_parquet(path)
        if table.index.name is not None or table.index.dtype.kind == "M":
            table = table.reset_index()
    else:
        from hf_transfer.data.reading import read_splits

        splits = read_splits(name, config)
        order = {"train": 0, "validation": 1, "test": 2}
        names = sorted(splits, key=lambda split: order.get(split, 1))
        tables: list[Any] = [splits[split].to_pandas() for split in names]
        table = pd.concat(tables, ignore_index=True)
    table.columns = [str(column) for column in table.columns]
    if not len(table):
        raise ValueError(f"`{name}` has no rows: there is no series to learn of. Check the file.")
    return table


def _without_dates(rows: int, name: str) -> Grid:
    logger.warning(
        f"`{name}` has no column of dates: its rows are taken to be in order of time and equally far apart, and "
        "numbered as days from 1970-01-01. Name `date_column` if there is one."
    )
    return numbered_rows(np.arange(rows).astype("datetime64[D]").astype("datetime64[ns]"))


def _embedded(series: Series, channels: Sequence[str] | None, gaps: str) -> tuple[Series, SeriesReport]:
    import pandas as pd

    chosen, _ = choose_channels(pd.DataFrame(series.values, columns=list(series.channels)), None, channels)
    at = [series.channels.index(name) for name in chosen]
    series = Series(series.name, series.dates, series.values[:, at], tuple(chosen), series.step)
    present = np.flatnonzero(~np.isnan(series.values).all(1))
    grid = Grid(series.dates, present, series.step)
    report = _report(series, grid, None, [])
    if gaps == "refuse":
        _refuse_gaps(series, grid, report)
    return series, report


def _report(series: Series, grid: Grid, date_column: str | None, dropped: Sequence[str]) -> SeriesReport:
    lengths = grid.gap_lengths()
    missing = np.isnan(series.values).sum(0).tolist()
    return SeriesReport(
        name=series.name,
        rows=len(grid.places),
        grid_rows=len(series),
        step=step_name(series),
        start=series.dates[0],
        end=series.dates[-1],
        gaps=len(lengths),
        longest_gap=int(lengths.max(initial=0)),
        missing=dict(zip(series.channels, missing, strict=True)),
        date_column=date_column,
        dropped=tuple(dropped),
    )


def _refuse_gaps(series: Series, grid: Grid, report: SeriesReport) -> None:
    if not report.gaps and not any(report.missing.values()):
        return
    first = int(np.flatnonzero(np.isnan(series.values).any(1))[0])
    raise ValueError(
        f"Series `{series.name}` has {report.gaps} gaps, the longest of {report.longest_gap} rows, and "
        f"{sum(report.missing.values())} missing values, the first at {series.dates[first].astype('datetime64[s]')}; "
        'gaps="refuse" asks for none. Fill them in the file, or pass gaps="fill" to have them as missing values, '
        "which losses and errors leave out."
    )
