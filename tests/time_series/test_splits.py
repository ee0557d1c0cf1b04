"""Parts of a series in order of time."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.time_series.splits import ETT_HOURLY, split_by_time
from tests.time_series.made import series_of


def made(rows: int):
    return series_of(np.zeros((rows, 1)))


@pytest.mark.parametrize("few", [0.3, 1.0])
@pytest.mark.parametrize("rows", [100, 137, 1001])
def test_no_row_is_forecast_in_two_parts_and_parts_follow_each_other(rows, few):
    parts = split_by_time(made(rows), context_length=8, prediction_length=4, few=few)
    assert parts.train.stop == parts.eval.start and parts.eval.stop == parts.test.start and parts.test.stop == rows
    assert not set(parts.train) & set(parts.eval) and not set(parts.eval) & set(parts.test)
    assert parts.known.start == parts.train.start - 8 >= 0 and parts.known.stop == parts.train.stop


def test_fractions_round_as_in_the_literature():
    # 7588 rows of exchange rates: int(0.7 N) and int(0.2 N), the rest between
    parts = split_by_time(made(7588), context_length=96, prediction_length=96)
    assert (parts.train, parts.eval, parts.test) == (range(96, 5311), range(5311, 6071), range(6071, 7588))
    assert len(split_by_time(made(10), context_length=1, prediction_length=1, fractions=(0.3, 0.3, 0.4)).train) == 2


def test_the_months_of_ett_can_be_said():
    parts = split_by_time(made(17_420), context_length=336, prediction_length=96, lengths=ETT_HOURLY)
    windows = [len(part) - 96 + 1 for part in (parts.train, parts.eval, parts.test)]
    assert windows == [8209, 2785, 2785] and parts.test.stop == 14_400


def test_rows_after_fractions_below_one_are_not_used():
    parts = split_by_time(made(100), context_length=2, prediction_length=2, fractions=(0.4, 0.2, 0.2))
    assert (parts.train.stop, parts.eval.stop, parts.test.stop) == (40, 60, 80)


def test_few_keeps_the_most_recent_training_targets_and_leaves_the_rest():
    whole = split_by_time(made(1000), context_length=100, prediction_length=10)
    few = split_by_time(made(1000), context_length=100, prediction_length=10, few=0.05)
    assert few.train == range(670, 700) and few.known == range(570, 700)
    assert (few.eval, few.test) == (whole.eval, whole.test)


def test_the_smallest_share_that_is_told_works_and_less_does_not():
    options = {"context_length": 336, "prediction_length": 720, "lengths": ETT_HOURLY}
    with pytest.raises(ValueError, match="few=0.05 keeps 415 of the 8304.*720 of one window.*Pass few=0.0868 or more"):
        split_by_time(made(17_420), few=0.05, **options)
    assert len(split_by_time(made(17_420), few=0.0868, **options).train) == 720
    with pytest.raises(ValueError, match="Pass few=0.0868"):
        split_by_time(made(17_420), few=0.0867, **options)


@pytest.mark.parametrize("few", [0.0, -0.1, 1.5])
def test_few_is_a_share(few):
    with pytest.raises(ValueError, match="is not a share.*above 0 and at most 1"):
        split_by_time(made(100), context_length=2, prediction_length=2, few=few)


@pytest.mark.parametrize("fractions", [(0.7, 0.2, 0.2), (0.8, 0.0, 0.2), (0.5, 0.5)])
def test_fractions_must_make_three_parts(fractions):
    with pytest.raises(ValueError, match=r"not three positive shares.*empty or overlap.*Pass for instance \(0.7"):
        split_by_time(made(100), context_length=2, prediction_length=2, fractions=fractions)


@pytest.mark.parametrize("lengths", [(60, 30, 20), (60, 0, 20), (60, 40)])
def test_lengths_must_lie_within_the_series(lengths):
    with pytest.raises(ValueError, match="within the 100 rows of `made`.*Pass three that sum to 100 at most"):
        split_by_time(made(100), context_length=2, prediction_length=2, lengths=lengths)


@pytest.mark.parametrize(
    ("context", "horizon", "part"), [(70, 4, "training"), (4, 12, "evaluation"), (4, 30, "evaluation")]
)
def test_a_series_shorter_than_a_window_is_refused_by_the_part(context, horizon, part):
    with pytest.raises(ValueError, match=f"The {part} part of `made` has .* of 100 rows.*one window takes.*longer"):
        split_by_time(made(100), context_length=context, prediction_length=horizon)
    with pytest.raises(ValueError, match="The test part of `made` has 5 of 100 rows"):
        split_by_time(made(100), context_length=4, prediction_length=6, lengths=(80, 15, 5))


def test_windows_have_rows():
    with pytest.raises(ValueError, match="context_length=0 and prediction_length=1.*Pass 1 or more"):
        split_by_time(made(100), context_length=0, prediction_length=1)
