"""The column of dates of a table: which it is, and what its entries mean."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.data.columns import listed


if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DATE_NAMES", "find_date_column", "read_dates"]

DATE_NAMES = ("date", "datetime", "timestamp", "time", "ds", "year")
"""Names of date columns, compared without case, blanks and signs, in order of preference."""

_LOOKED_AT = 50


def find_date_column(table: pd.DataFrame, given: str | None = None) -> str | None:
    """
    The column of dates: the one given, else one of a date type, else by its name, else the first text column whose
    first entries are dates; None if there is none.

    Args:
        table (`pd.DataFrame`): as read.
        given (`str`, *optional*): the user's choice.

    Raises:
        ValueError: if there is no column of the given name.

    Example:
        >>> import pandas as pd
        >>> find_date_column(pd.DataFrame({"load": [1.0], "Date Time": ["2020-01-01"]}))
        'Date Time'
    """
    names = [str(name) for name in table.columns]
    if given is not None:
        if given not in names:
            raise ValueError(
                f"There is no column `{given}` to take dates from; the table has {listed(names)}. Without dates rows "
                "have no order in time. Pass one of these as `date_column`."
            )
        return given
    of_type = [name for name in names if table[name].dtype.kind == "M"]
    plain = {re.sub(r"[^a-z]", "", name.lower()): name for name in reversed(names)}
    by_name = [plain[name] for name in DATE_NAMES if name in plain]
    named_type = [name for name in by_name if name in of_type]
    for found in (named_type, of_type, by_name):
        if found:
            return found[0]
    for name in names:
        entries = table[name].dropna().head(_LOOKED_AT)
        if len(entries) and _is_text(entries) and any(parsed is not None for parsed in _readings(entries)):
            return name
    return None


def read_dates(column: pd.Series, name: str) -> np.ndarray:
    """
    The dates of a column, `(N,)` datetime64[ns], of dates, text, years or numbers such as 20240131.

    Dates with an offset or a time zone become UTC, where no hour comes twice or never. Text is read as ISO 8601, else
    as days and months in the order under which the dates increase.

    Args:
        column (`pd.Series`): as read.
        name (`str`): what messages call it.

    Raises:
        ValueError: if an entry is missing, is no date or lies outside 1678 to 2261, or days cannot be told from
            months.

    Example:
        >>> import pandas as pd
        >>> read_dates(pd.Series(["30/01/2024", "31/01/2024"]), "date").astype("datetime64[D]")
        array(['2024-01-30', '2024-01-31'], dtype='datetime64[D]')
    """
    empty = np.flatnonzero(column.isna())
    if len(empty):
        raise ValueError(
            f"Column `{name}` has no date in {len(empty)} of {len(column)} rows, the first in row {empty[0] + 1}: "
            "these rows have no place in time. Fill the dates in, or drop the rows."
        )
    if column.dtype.kind in "iuf":
        return _read_numbers(column.to_numpy(), name)
    # one reading, two of the same content, or a choice
    readings = [reading for reading in _readings(column) if reading is not None]
    if not readings:
        raise _unreadable(column, name)
    if len(readings) > 1 and not np.array_equal(readings[0], readings[1]):
        readings = [reading for reading in readings if (np.diff(reading) > np.timedelta64(0)).all()]
        if len(readings) != 1:
            raise ValueError(
                f"Column `{name}` holds dates such as `{column.iloc[0]}`, which may be day and month or month and "
                "day: the order in time is not known. Write dates as 2024-01-31 (ISO 8601)."
            )
    return readings[0]


def _readings(column: Any) -> list[np.ndarray | None]:
    """The column as ISO 8601, or with the month first and with the day first; None where it cannot be."""
    iso = _parsed(column, format="ISO8601") if _is_text(column) else _parsed(column)
    if iso is not None:
        return [iso]
    return [_parsed(column), _parsed(column, dayfirst=True)]


def _parsed(column: Any, **options: Any) -> np.ndarray | None:
    import pandas as pd

    try:
        with warnings.catch_warnings():
            # about the order of day and month, which is looked into here, and formats that differ from row to row
            warnings.simplefilter("ignore", UserWarning)
            dates = pd.to_datetime(column, utc=True, **options)
        return dates.dt.tz_localize(None).dt.as_unit("ns").to_numpy()
    except (ValueError, TypeError, OverflowError):
        return None


def _read_numbers(numbers: np.ndarray, name: str) -> np.ndarray:
    low, high = numbers.min(), numbers.max()
    whole = bool((numbers == np.floor(numbers)).all())
    text = [str(int(number)) for number in numbers] if whole else []
    if whole and 1678 <= low and high <= 2261:
        return np.array(text, dtype="datetime64[Y]").astype("datetime64[ns]")
    if whole and 1678_01_01 <= low and high <= 2261_12_31:
        try:
            days = [f"{number[:4]}-{number[4:6]}-{number[6:]}" for number in text]
            return np.array(days, dtype="datetime64[D]").astype("datetime64[ns]")
        except ValueError:
            pass  # some number is no day
    raise ValueError(
        f"Column `{name}` holds the numbers {low} to {high}, which are neither years nor days such as 20240131: what "
        "they count, and from when, is not known. Write dates as text, for instance by "
        f'`table["{name}"] = pandas.to_datetime(table["{name}"], unit="s")`, or name another `date_column`.'
    )


def _unreadable(column: Any, name: str) -> ValueError:
    row = next(number for number in range(len(column)) if not _one_date(column.iloc[number : number + 1]))
    return ValueError(
        f"Row {row + 1} of column `{name}` holds `{column.iloc[row]}`, which is no date from 1678 to 2261 or is "
        "written unlike the others: the row has no place in time. Write all dates as 2024-01-31 or "
        "2024-01-31 13:00:00 (ISO 8601), or name another `date_column`."
    )


def _one_date(entry: Any) -> bool:
    return any(reading is not None for reading in _readings(entry))


def _is_text(column: Any) -> bool:
    return isinstance(column.iloc[0], str)
