"""What is refused when a series is read: dates that do not increase, and channels that nothing can be learned of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.utils import logging

from hf_transfer.data.columns import listed


if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_dates", "check_values", "choose_channels"]

logger = logging.get_logger(__name__)

_INDEX_NAMES = ("Unnamed: 0", "index", "__index_level_0__", "")


def check_dates(dates: np.ndarray, column: str) -> None:
    """
    Refuse dates that go back or come twice.

    Args:
        dates (`np.ndarray`): `(N,)` datetime64[ns], in the order of the rows.
        column (`str`): what messages call them.

    Raises:
        ValueError: with the first row concerned.
    """
    ordered = np.sort(dates)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        first = ordered[twice[0]]
        rows = np.flatnonzero(dates == first)[:2] + 1
        clocks = _where_clocks_go_back(ordered[twice])
        raise ValueError(
            f"{len(twice)} dates of column `{column}` come twice, the first, {first.astype('datetime64[s]')}, in rows "
            f"{rows[0]} and {rows[1]}"
            f"{', in an hour that comes twice where clocks are put back' if clocks else ''}: one moment cannot have "
            "two values. "
            + (
                "Write the dates in UTC or with their offset (pandas: `dates.tz_localize(zone, "
                'ambiguous="infer").tz_convert("UTC")`).'
                if clocks
                else "Keep one row a date; of several series below each other make one column each (pandas: "
                "`table.pivot`)."
            )
        )
    back = np.flatnonzero(np.diff(dates) < np.timedelta64(0, "ns"))
    if len(back):
        row = back[0] + 1
        raise ValueError(
            f"The dates of column `{column}` go back: row {row + 1} ({dates[row].astype('datetime64[s]')}) is "
            f"before row {row} ({dates[row - 1].astype('datetime64[s]')}). Rows in another order may be a mistake, "
            f'and windows run along rows. Sort them (pandas: `table.sort_values("{column}")`) and write the file anew.'
        )


def choose_channels(
    table: pd.DataFrame, date_column: str | None, channels: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """
    Names of the columns that are channels, and of those left out: by default all columns of numbers.

    Args:
        table (`pd.DataFrame`): as read.
        date_column (`str`, *optional*): the column of dates, which is no channel.
        channels (`Sequence[str]`, *optional*): the user's choice, in this order.

    Raises:
        ValueError: if a channel is not there, comes twice or holds no numbers; if a column not named holds numbers
            among text; if no column holds numbers.

    Example:
        >>> import pandas as pd
        >>> choose_channels(pd.DataFrame({"date": ["2020"], "b": [1.0], "a": [2]}), "date", None)
        (['b', 'a'], [])
    """
    columns = [str(name) for name in table.columns if name != date_column]
    if channels is not None:
        wanted = [channels] if isinstance(channels, str) else list(channels)
        _check_wanted(table, columns, wanted)
        return wanted, []
    chosen, dropped = [], []
    for name in columns:
        if name in _INDEX_NAMES and _counts_rows(table[name]):
            dropped.append(name)
        elif _is_numeric(table[name]):
            chosen.append(name)
        elif _mostly_numbers(table[name]):
            raise _not_a_number(table[name], name)
        else:
            dropped.append(name)
    if not chosen:
        raise ValueError(
            f"None of the columns {listed(columns)} holds numbers: there is nothing to forecast. Give a table with a "
            "column of numbers a channel."
        )
    if dropped:
        logger.warning(
            f"Columns {listed(dropped)} hold no numbers to forecast, or count the rows, and are left out; channels "
            f"are {listed(chosen)}. Name `channels` to choose."
        )
    return chosen, dropped


def check_values(values: np.ndarray, channels: Sequence[str]) -> None:
    """
    Refuse channels that are infinite somewhere, never observed, or constant.

    Args:
        values (`np.ndarray`): `(N, C)` float64, NaN where missing.
        channels (`Sequence[str]`): their names.

    Raises:
        ValueError: naming channels and what to pass.
    """
    infinite = np.isinf(values)
    if infinite.any():
        row, channel = np.argwhere(infinite)[0]
        raise ValueError(
            f"Channel `{channels[channel]}` is infinite in row {row + 1}, one of {infinite.sum()} such values: its "
            "mean and any error would be infinite. Leave the field empty, which is missing, or correct it."
        )
    missing = np.asarray(np.isnan(values).all(axis=0))
    _refuse(missing, channels, "has no value at all", "there is nothing to learn of it")
    constant = np.asarray(np.nanmin(values, axis=0) == np.nanmax(values, axis=0))
    _refuse(constant, channels, "never changes", "it cannot be scaled, and its forecast is known")


def _refuse(bad: np.ndarray, channels: Sequence[str], what: str, why: str) -> None:
    if bad.any():
        names = [name for name, is_bad in zip(channels, bad, strict=True) if is_bad]
        kept = [name for name in channels if name not in names]
        way_out = f"Pass channels={kept} to leave it out." if kept else "Give another series."
        raise ValueError(f"Channel {listed(names)} {what}: {why}. {way_out}")


def _check_wanted(table: pd.DataFrame, columns: list[str], wanted: list[str]) -> None:
    unknown = [name for name in wanted if name not in columns]
    if unknown or len(set(wanted)) < len(wanted) or not wanted:
        raise ValueError(
            f"channels={wanted} are not different columns of numbers of the table, whose columns besides the dates "
            f"are {listed(columns)}: there would be no values for them. Pass some of these."
        )
    for name in wanted:
        if not _is_numeric(table[name]):
            raise _not_a_number(table[name], name)


def _is_numeric(column: Any) -> bool:
    if column.dtype.kind in "iufb":
        return True
    # what Parquet gives for decimals
    from decimal import Decimal

    present = column.dropna()
    return bool(len(present) == 0 or (column.dtype == object and all(isinstance(one, Decimal) for one in present)))


def _mostly_numbers(column: Any) -> bool:
    text = column.dropna().astype(str).str.replace(",", ".", regex=False)
    return bool(_numbers(text).notna().mean() > 0.5)


def _numbers(text: Any) -> Any:
    """NaN where the text is no number."""
    import pandas as pd

    return pd.to_numeric(text, errors="coerce")


def _not_a_number(column: Any, name: str) -> ValueError:
    present = column.dropna()
    bad = np.flatnonzero(_numbers(present.astype(str)).isna())
    row = present.index[bad[0]] if len(bad) else present.index[0]
    how = "is no number" if len(bad) else "is a number written as text"
    return ValueError(
        f"Column `{name}` holds `{column.loc[row]}` in row {column.index.get_loc(row) + 1}, which {how}: it cannot be "
        "forecast. Leave the field empty where a value is missing, write decimals with a point and without quotes, or "
        "pass `channels` without this column."
    )


def _counts_rows(column: Any) -> bool:
    if column.dtype.kind not in "iu":
        return False
    numbers = column.to_numpy()
    return bool((np.diff(numbers) == 1).all() and numbers[0] in (0, 1))


def _where_clocks_go_back(twice: np.ndarray) -> bool:
    """Whether all are early on Sundays in autumn, northern or southern: where local time repeats an hour."""
    days = twice.astype("datetime64[D]")
    hours = (twice - days) / np.timedelta64(1, "h")
    months = days.astype("datetime64[M]").astype(int) % 12 + 1
    sundays = (days.astype(int) + 4) % 7 == 0
    return bool((sundays & (hours < 4) & np.isin(months, (3, 4, 9, 10, 11))).all())
