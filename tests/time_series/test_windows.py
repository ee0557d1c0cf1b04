"""Windows against a loop, without copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_transfer.time_series.windows import Windows, filled_context
from tests.time_series.made import random_walk


def expected(values: np.ndarray, start: int, length: int, horizon: int):
    """One window by the definition."""
    past = np.zeros((length, values.shape[1]), dtype=np.float32)
    for channel in range(values.shape[1]):
        last = 0.0
        for row in range(length):
            value = values[start - length + row, channel]
            last = last if np.isnan(value) else value
            past[row, channel] = last
    mask = ~np.isnan(values[start - length : start])
    return past, mask, values[start : start + horizon].astype(np.float32)


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("stride", [1, 3])
def test_every_window_is_that_of_the_definition(missing, stride):
    values = random_walk(60, 3, missing=missing)
    rows = range(20, 50)
    windows = Windows(values, rows=rows, context_length=7, prediction_length=4, stride=stride)
    assert windows.starts.tolist() == list(range(20, 47, stride)) and windows.channels == 3
    for number, start in enumerate(windows.starts):
        past, mask, future = expected(values, start, 7, 4)
        item = windows[number]
        assert np.array_equal(item["past_values"].numpy(), past)
        assert np.array_equal(item["past_observed_mask"].numpy(), mask)
        assert np.array_equal(item["future_values"].numpy(), future, equal_nan=True)
        assert [item[key].dtype for key in ("past_values", "past_observed_mask", "future_values")] == [
            torch.float32,
            torch.bool,
            torch.float32,
        ]


def test_all_targets_lie_within_the_part():
    for rows in (range(20, 31), range(0, 40), range(33, 60)):
        windows = Windows(random_walk(60, 1), rows=rows, context_length=10, prediction_length=5)
        targets = [row for start in windows.starts for row in range(start, start + 5)]
        assert set(targets) <= set(rows) and min(windows.starts) >= 10


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_one_channel_at_a_time_is_a_column_of_the_windows(missing):
    values = random_walk(40, 3, missing=missing)
    options = {"rows": range(10, 30), "context_length": 6, "prediction_length": 2}
    together, apart = Windows(values, **options), Windows.of_channels(values, **options)
    assert len(apart) == 3 * len(together) and apart.channels == 1
    for index in range(len(apart)):
        window, channel = divmod(index, 3)
        for key, whole in together[window].items():
            column = apart[index][key]
            assert column.shape == (len(whole), 1)
            assert torch.equal(column.nan_to_num(nan=9), whole[:, channel : channel + 1].nan_to_num(nan=9))


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_batches_are_the_items_stacked(missing):
    values = random_walk(50, 2, missing=missing)
    windows = Windows(values, rows=range(15, 50), context_length=9, prediction_length=3).subsample(11, seed=1)
    items = [windows[index] for index in range(len(windows))]
    batches = list(windows.batches(4))
    assert [len(batch["past_values"]) for batch in batches] == [4, 4, 3]
    for key in items[0]:
        stacked = torch.stack([item[key] for item in items]).nan_to_num(nan=9)
        assert torch.equal(torch.cat([batch[key] for batch in batches]).nan_to_num(nan=9), stacked)


def test_windows_share_one_array():
    windows = Windows(random_walk(500, 4), rows=range(100, 500), context_length=100, prediction_length=20)
    held = windows.values.untyped_storage().data_ptr()
    for key in ("past_values", "future_values"):
        assert all(windows[index][key].untyped_storage().data_ptr() == held for index in (0, 7, -1))
    assert windows.subsample(3, seed=0).values.untyped_storage().data_ptr() == held


def test_a_whole_context_beside_missing_values_is_not_copied():
    values = random_walk(40, 1)
    values[30] = np.nan
    windows = Windows(values, rows=range(5, 40), context_length=5, prediction_length=1)
    assert (
        windows[0]["past_values"].untyped_storage().data_ptr()
        == windows[3]["past_values"].untyped_storage().data_ptr()
    )


def test_what_the_caller_changes_later_stays_outside():
    values = random_walk(30, 1).astype(np.float32)
    windows = Windows(values, rows=range(5, 30), context_length=5, prediction_length=1)
    before = windows[0]["past_values"].clone()
    values[:] = 0
    assert torch.equal(windows[0]["past_values"], before)


def test_a_subsample_is_drawn_by_its_seed_without_repetition():
    windows = Windows(random_walk(100, 1), rows=range(10, 100), context_length=10, prediction_length=5)
    drawn = [windows.subsample(20, seed=seed).starts for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    assert len(set(drawn[0])) == 20 and set(drawn[0]) <= set(windows.starts) and (np.diff(drawn[0]) > 0).all()
    assert len(windows.subsample(1000, seed=0)) == len(windows) == 86
    with pytest.raises(ValueError, match="subsample of 0 windows leaves nothing.*Pass 1 or more"):
        windows.subsample(0, seed=0)


def test_a_loader_stacks_them():
    windows = Windows(random_walk(30, 2), rows=range(8, 30), context_length=8, prediction_length=2)
    batch = next(iter(DataLoader(windows, batch_size=4)))
    assert batch["past_values"].shape == (4, 8, 2) and batch["future_values"].shape == (4, 2, 2)
    assert len(list(windows)) == len(windows)


def test_a_context_alone_is_filled_alike():
    values = random_walk(30, 3, missing=0.5)
    past, mask, _ = expected(values, 30, 30, 0)
    filled, observed = filled_context(torch.from_numpy(values).float())
    assert np.array_equal(filled.numpy(), past) and np.array_equal(observed.numpy(), mask)


def test_what_makes_no_windows_is_refused():
    values = random_walk(30, 1)
    with pytest.raises(ValueError, match=r"shape \(30,\).*along rows.*\(N, 1\)"):
        Windows(values[:, 0], rows=range(5, 30), context_length=5, prediction_length=1)
    with pytest.raises(ValueError, match="Rows 28 to 30 hold no window of 5 context and 3 target rows.*empty"):
        Windows(values, rows=range(28, 30), context_length=5, prediction_length=3)
    with pytest.raises(ValueError, match=r"range\(5, 31\) are not rows of the 30 given.*split_by_time"):
        Windows(values, rows=range(5, 31), context_length=5, prediction_length=3)
    with pytest.raises(ValueError, match="stride=0 were given.*Pass 1 or more"):
        Windows(values, rows=range(5, 30), context_length=5, prediction_length=3, stride=0)
    values[3] = np.inf
    with pytest.raises(ValueError, match="infinite.*any loss.*NaN"):
        Windows(values, rows=range(5, 30), context_length=5, prediction_length=1)
    with pytest.raises(IndexError):
        Windows(random_walk(30, 1), rows=range(5, 30), context_length=5, prediction_length=1)[25]
