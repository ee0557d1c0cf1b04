from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_transfer.features.cache import Entry
from hf_transfer.frozen_prefix.extent import Unsuitable
from hf_transfer.frozen_prefix.table import Layout, Table


LENGTHS = np.array([2, 5, 1, 3])
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def ragged(dtype=torch.float32):
    return Layout((4,), dtype, 4, LENGTHS)


def hidden_of(dtype=torch.float32):
    """Row by row, without padding."""
    return [torch.randn(int(length), 4).to(dtype) for length in LENGTHS]


def padded(rows, numbers, side):
    longest = max(len(rows[number]) for number in numbers) + 1
    hidden = torch.zeros(len(numbers), longest, 4, dtype=rows[0].dtype)
    mask = torch.zeros(len(numbers), longest, dtype=torch.long)
    for place, number in enumerate(numbers):
        length = len(rows[number])
        where = slice(0, length) if side == "right" else slice(longest - length, longest)
        hidden[place, where], mask[place, where] = rows[number], 1
    return hidden, mask


def stored(tmp_path, layout, values, mask=None):
    table = Table(Entry.open(layout.describe(), rows=layout.rows, shard_rows=3, cache_dir=tmp_path), layout)
    rows = table.flat(values, mask)
    for shard, numbers in enumerate(table.entry.ranges()):
        table.write(shard, [rows[number] for number in numbers])
    table.open()
    return table


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_ragged_rows_come_back_bit_for_bit_padded_on_either_side(dtype, side, tmp_path):
    rows = hidden_of(dtype)
    values, mask = padded(rows, range(4), "right")
    noisy = values + (1 - mask).unsqueeze(-1) * 7  # what stands in the padding is not stored
    table = stored(tmp_path, ragged(dtype), noisy.to(dtype), mask)
    for numbers in ([3, 0], [1], [2, 2, 1, 3]):
        expected, mask = padded(rows, numbers, side)
        taken = table.take(numbers, mask)
        assert taken.dtype == dtype
        assert torch.equal(taken, expected)


def test_a_mask_with_holes_is_followed(tmp_path):
    mask = torch.tensor([[1, 0, 1], [0, 1, 1]])
    layout = Layout((4,), torch.float32, 2, np.array([2, 2]))
    values = torch.randn(2, 3, 4)
    taken = stored(tmp_path, layout, values, mask).take([0, 1], mask)
    assert torch.equal(taken, values * mask.unsqueeze(-1))


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_of_one_shape_come_back_bit_for_bit(dtype, tmp_path):
    values = torch.randn(5, 2, 3, 4).to(dtype)
    table = stored(tmp_path, Layout((2, 3, 4), dtype, 5), values)
    assert torch.equal(table.take([4, 0, 4], None), values[[4, 0, 4]])


def test_what_is_taken_may_be_written_to(tmp_path):
    table = stored(tmp_path, Layout((4,), torch.float32, 5), torch.ones(5, 4))
    table.take([0, 1], None).mul_(2)
    assert table.take([0, 1], None).eq(1).all()


def test_the_size_is_that_of_the_tokens_there_are():
    assert ragged().bytes == 11 * 4 * 4
    assert ragged(torch.bfloat16).bytes == 11 * 4 * 2
    assert ragged().mean_values == 11 * 4 / 4
    assert Layout((2, 3), torch.float32, 10).bytes == 240


def test_shards_hold_64_mebibytes_and_at_most_4096_rows():
    assert Layout((1,), torch.float32, 10**6).shard_rows == 4096
    assert Layout((1 << 20,), torch.float32, 100).shard_rows == 16
    assert Layout((1 << 28,), torch.float32, 100).shard_rows == 1
    assert Layout((4,), torch.float32, 0).shard_rows >= 1


def test_rows_of_one_length_are_stored_whole():
    hidden = torch.randn(3, 5, 4)
    assert not Layout.of(hidden, None, rows=9, lengths=np.full(9, 5)).ragged
    assert not Layout.of(hidden, None, rows=9, lengths=None).ragged
    assert Layout.of(hidden, torch.ones(3, 5), rows=4, lengths=LENGTHS).shape == (4,)


@pytest.mark.parametrize("mask", [None, torch.ones(3, 9), torch.ones(3, 1, 1, 5)])
def test_ragged_rows_need_a_mask_of_their_size(mask):
    with pytest.raises(Unsuitable, match="Rows differ in length .* cannot be told - give rows of one length"):
        Layout.of(torch.randn(3, 5, 4), mask, rows=4, lengths=LENGTHS)


def test_a_batch_of_another_layout_is_refused(tmp_path):
    table = Table(Entry.open({}, rows=4, shard_rows=3, cache_dir=tmp_path), ragged())
    with pytest.raises(Unsuitable, match=r"float32 \(5,\) in one batch .*\(4,\) in another"):
        table.flat(torch.randn(2, 3, 5), torch.ones(2, 3))
    with pytest.raises(Unsuitable, match="float64 .* in one batch and torch.float32"):
        table.flat(torch.randn(2, 3, 4).double(), torch.ones(2, 3))
    with pytest.raises(Unsuitable, match="no attention mask of that size"):
        table.flat(torch.randn(2, 3, 4), torch.ones(2, 4))


def test_another_number_of_tokens_than_stored_is_an_error(tmp_path):
    values, mask = padded(hidden_of(), range(4), "right")
    table = stored(tmp_path, ragged(), values, mask)
    with pytest.raises(RuntimeError, match=r"have \[3\] tokens, but \[2\] when .* - do not change the data"):
        table.take([0], torch.ones(1, 3))
