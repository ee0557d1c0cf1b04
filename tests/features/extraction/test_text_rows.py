from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from hf_transfer.features.extraction.text_rows import TextWindow, from_arrow, from_lists


ROWS = [[3, 4], [5, 6, 7, 8], [9], [1, 2, 3]]


def window(rows=ROWS, *, reads=("input_ids", "attention_mask"), pads=None, columns=None, **options):
    given = {"input_ids": rows, **(columns or {})}
    return TextWindow({name: from_lists(rows) for name, rows in given.items()}, set(reads), pads or {}, **options)


@pytest.mark.parametrize("left", [False, True])
def test_batches_are_padded_rows(left):
    found = window(left=left, pads={"input_ids": 49})
    assert found.order().tolist() == [1, 3, 0, 2] and len(found) == 4
    (batch,) = found.collate(np.array([3, 2, 1]))
    for place, position in enumerate([3, 2, 1]):
        padding = [49] * (4 - len(ROWS[position]))
        expected = padding + ROWS[position] if left else ROWS[position] + padding
        assert batch.inputs["input_ids"][place].tolist() == expected
        assert batch.inputs["attention_mask"][place].tolist() == [int(value != 49) for value in expected]
    assert batch.inputs["input_ids"].dtype == torch.int64
    assert torch.equal(batch.mask, batch.inputs["attention_mask"])


def test_a_model_without_a_mask_gets_none_but_the_pooling_does():
    (batch,) = window(reads=["input_ids"]).collate(np.array([0, 2]))
    assert list(batch.inputs) == ["input_ids"] and batch.mask is not None and batch.mask.tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padding_of_the_data_is_taken_off(side):
    ids, masks, labels = [], [], []
    for row in ROWS:
        before = {"left": 6 - len(row), "right": 0, "both": 1}[side]
        after = 6 - len(row) - before
        ids.append([0] * before + row + [0] * after)
        masks.append([0] * before + [1] * len(row) + [0] * after)
        labels.append([-100] * before + [value % 3 for value in row] + [-100] * after)
    found = window(ids, columns={"attention_mask": masks, "labels": labels})
    assert found.lengths.tolist() == [2, 4, 1, 3]
    stripped = found.token_labels()
    assert stripped is not None and [row.tolist() for row in stripped] == [[v % 3 for v in row] for row in ROWS]
    bare = window()
    for positions in ([0], [2, 1], [3, 0, 1]):
        one, other = found.collate(np.array(positions))[0], bare.collate(np.array(positions))[0]
        assert one.inputs.keys() == other.inputs.keys()
        assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


def test_a_mask_with_holes_is_kept():
    found = window([[1, 2, 3], [4, 5]], columns={"attention_mask": [[1, 0, 1], [1, 1]]})
    (batch,) = found.collate(np.array([0, 1]))
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert batch.mask is not None and batch.mask.tolist() == [[1, 0, 1], [1, 1, 0]]


def test_several_numbers_per_token():
    boxes = [[[n, n, n, n] for n in row] for row in ROWS]
    found = window(columns={"bbox": boxes}, reads=["input_ids", "bbox"])
    (batch,) = found.collate(np.array([2, 1]))
    assert batch.inputs["bbox"].shape == (2, 4, 4) and batch.inputs["bbox"][1, 2].tolist() == [7] * 4
    assert batch.inputs["bbox"][0, 1:].abs().sum() == 0


def test_small_integers_become_indices():
    values = np.zeros(10, np.int8), np.array([2, 4, 1, 3])
    found = TextWindow({"input_ids": from_lists(ROWS), "token_type_ids": values}, {"token_type_ids"}, {})
    assert found.collate(np.array([0]))[0].inputs["token_type_ids"].dtype == torch.int64


def test_a_collator_pads_instead():
    seen = []

    def collator(rows):
        seen.extend(rows)
        width = 8
        pad = [row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows]
        mask = [row["attention_mask"] + [0] * (width - len(row["input_ids"])) for row in rows]
        return {"input_ids": torch.tensor(pad), "attention_mask": torch.tensor(mask), "labels": 1}

    (batch,) = window(collator=collator).collate(np.array([1, 2]))
    assert [row["input_ids"] for row in seen] == [ROWS[1], ROWS[2]]
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert batch.mask is not None and batch.mask.sum(1).tolist() == [4, 1]


def test_refusals():
    with pytest.raises(ValueError, match="Row 12 has no token.*Fill or drop"):
        window([[1], [2], []], first=10)
    with pytest.raises(ValueError, match="Row 1 has no token"):
        window([[1, 2], [0, 0]], columns={"attention_mask": [[1, 1], [0, 0]]})
    with pytest.raises(ValueError, match="Row 8 has 1 `input_ids` and 2 `labels`: which belongs"):
        window([[1], [2]], columns={"labels": [[1], [2, 2]]}, first=7)


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.int32())])
def test_arrow_lists_in_chunks_and_slices(kind):
    column = pa.chunked_array([pa.array(ROWS[:2], kind), pa.array(ROWS[1:], kind).slice(1)])
    values, lengths = from_arrow(column)
    expected, counts = from_lists(ROWS[:2] + ROWS[2:])
    assert values.tolist() == expected.tolist() and lengths.tolist() == counts.tolist()


def test_arrow_lists_of_one_length_and_of_lists():
    values, lengths = from_arrow(pa.chunked_array([pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2))]))
    assert values.tolist() == [1, 2, 3, 4] and lengths.tolist() == [2, 2]
    nested = pa.chunked_array([pa.array([[[1, 2], [3, 4]], [[5, 6]]])])
    values, lengths = from_arrow(nested)
    assert values.shape == (3, 2) and lengths.tolist() == [2, 1]


def test_rows_that_are_tensors():
    values, lengths = from_lists(list(torch.tensor([[1, 2], [3, 4]])))
    assert values.tolist() == [1, 2, 3, 4] and lengths.tolist() == [2, 2]
