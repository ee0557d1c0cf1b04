"""Training, evaluation and test part of a series, by time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hf_transfer.time_series.series import Series


__all__ = ["ETT_HOURLY", "SeriesParts", "split_by_time"]

ETT_HOURLY = (8640, 2880, 2880)
"""Rows of the parts of ETTh1 and ETTh2 in the literature: 12, 4 and 4 months of 30 days; the rest is not used."""


@dataclass(frozen=True)
class SeriesParts:
    """
    Rows that are forecast in each part; no row is in two, and each part comes after the one before.

    Args:
        train (`range`): target rows of training windows. Their contexts reach `context_length` rows further back.
        eval (`range`): target rows of evaluation windows, whose contexts may be rows of training.
        test (`range`): target rows of test windows, whose contexts may be rows of the other two.
        context_length (`int`): rows of a context.

    Example:
        >>> parts = SeriesParts(range(4, 10), range(10, 12), range(12, 16), context_length=4)
        >>> parts.known
        range(0, 10)
    """

    train: range
    eval: range
    test: range
    context_length: int

    @property
    def known(self) -> range:
        """Rows that training sees, contexts and targets: what scaling is fitted on."""
        return range(self.train.start - self.context_length, self.train.stop)


def split_by_time(
    series: Series,
    *,
    context_length: int,
    prediction_length: int,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    lengths: tuple[int, int, int] | None = None,
    few: float = 1.0,
) -> SeriesParts:
    """
    Split a series into training, evaluation and test part in this order of time; nothing is shuffled.

    The parts are consecutive rows from the first one on. Every target row belongs to one part. The first
    `context_length` rows of the series are context only. With `few`, the most recent share of the training targets is
    kept with one context before it: who has little data has the last weeks, not some weeks of two years ago, and
    what is kept borders on the evaluation part as it would in use.

    Args:
        series ([`Series`]):
            What is split. Only its length is looked at.
        context_length (`int`):
            Rows `L` that a forecast is made from.
        prediction_length (`int`):
            Rows `H` that are forecast at a time.
        fractions (`tuple[float, float, float]`, *optional*, defaults to `(0.7, 0.1, 0.2)`):
            Shares of the rows for training, evaluation and test; where they sum to less than 1 the last rows are not
            used. Training and test are rounded down, as in the literature; the evaluation part has what is between.
        lengths (`tuple[int, int, int]`, *optional*):
            Rows of the parts in place of fractions, such as `ETT_HOURLY`; rows after them are not used.
        few (`float`, *optional*, defaults to 1.0):
            Share of the training targets that is kept, in (0, 1].

    Deviations:
        Papers on few data keep the first share of the training rows, of the same size: context plus a share of the
        rest.

    Raises:
        ValueError: if lengths, fractions or `few` are out of range, ask for more rows than there are, or leave a part
            without one whole window.

    Example:
        >>> import numpy as np
        >>> dates = np.arange(100).astype("datetime64[D]").astype("datetime64[ns]")
        >>> series = Series("made up", dates, np.zeros((100, 1)), ("one",), np.timedelta64(1, "D"))
        >>> parts = split_by_time(series, context_length=10, prediction_length=5, few=0.5)
        >>> parts.train, parts.eval, parts.test
        (range(40, 70), range(70, 80), range(80, 100))
    """
    if context_length < 1 or prediction_length < 1:
        raise ValueError(
            f"context_length={context_length} and prediction_length={prediction_length} were given: a window needs "
            "rows to look at and rows to forecast. Pass 1 or more of each, for instance 96 and 24."
        )
    if not 0 < few <= 1:
        raise ValueError(
            f"few={few} is not a share: it is the part of the training rows that is kept. Pass a number above 0 and "
            "at most 1, for instance 0.05."
        )
    rows = _lengths_of(series, fractions) if lengths is None else _checked_lengths(series, lengths)
    _check_room(series, rows, context_length, prediction_length)
    end = rows[0]
    targets = end - context_length
    # the small number keeps 0.3 of 10 rows from being 2.9999999999999996
    kept = math.floor(few * targets + 1e-9)
    if kept < prediction_length:
        smallest = math.ceil(10_000 * prediction_length / targets) / 10_000
        raise ValueError(
            f"few={few} keeps {kept} of the {targets} target rows that the training part of `{series.name}` has, less "
            f"than the {prediction_length} of one window: there would be nothing to train on. Pass few={smallest:g} "
            "or more, or a shorter prediction_length."
        )
    return SeriesParts(
        range(end - kept, end), range(end, end + rows[1]), range(end + rows[1], sum(rows)), context_length
    )


def _lengths_of(series: Series, fractions: tuple[float, float, float]) -> tuple[int, int, int]:
    total = sum(fractions)
    if len(fractions) != 3 or min(fractions) <= 0 or total > 1 + 1e-9:
        raise ValueError(
            f"fractions={tuple(fractions)} are not three positive shares that sum to at most 1: parts would be empty "
            "or overlap. Pass for instance (0.7, 0.1, 0.2)."
        )
    train, test = (math.floor(fractions[part] * len(series) + 1e-9) for part in (0, 2))
    return train, math.floor(total * len(series) + 1e-9) - train - test, test


def _checked_lengths(series: Series, lengths: tuple[int, int, int]) -> tuple[int, int, int]:
    if len(lengths) != 3 or min(lengths) < 1 or sum(lengths) > len(series):
        raise ValueError(
            f"lengths={tuple(lengths)} are not three positive numbers of rows within the {len(series)} rows of "
            f"`{series.name}`: parts would be empty or lie outside. Pass three that sum to {len(series)} at most."
        )
    return lengths[0], lengths[1], lengths[2]


def _check_room(series: Series, rows: tuple[int, int, int], context_length: int, prediction_length: int) -> None:
    """Each part must hold one whole window."""
    needed = (context_length + prediction_length, prediction_length, prediction_length)
    for part, has, needs in zip(("training", "evaluation", "test"), rows, needed, strict=True):
        if has < needs:
            raise ValueError(
                f"The {part} part of `{series.name}` has {has} of {len(series)} rows, fewer than the {needs} that one "
                f"window takes (context_length={context_length}, prediction_length={prediction_length}): there would "
                f"be no {part}. Pass shorter lengths of the window, a larger share for this part, or a longer series."
            )
