from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import DataCollatorWithPadding, default_data_collator

from hf_transfer.frozen_prefix.rows import ROW, NumberedCollator, NumberedRows, read_rows, row_numbers, undecoded


class Squares(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, row):
        return {"pixel_values": torch.full((3, 2, 2), float(row * row)), "labels": row % 2}


def make_pixels(batch):
    return {"labels": batch["labels"], "pixel_values": [torch.full((2,), float(number)) for number in batch["image"]]}


def table(transform=make_pixels):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"image": [4, 5, 6, 7], "labels": [0, 1, 0, 1]}).with_transform(transform)


def test_rows_have_their_number_from_when_a_run_asks_until_it_ends():
    rows = NumberedRows(Squares(), "pixel_values")
    assert set(rows[3]) == {"pixel_values", "labels"}
    rows.number()
    assert rows[3][ROW] == 3
    assert [row[ROW] for row in rows.__getitems__([5, 0])] == [5, 0]
    rows.stop()
    assert ROW not in rows[3]
    assert len(rows) == 6


def test_a_loader_and_its_workers_see_the_change():
    rows = NumberedRows(Squares(), "pixel_values")
    loader = DataLoader(
        rows, batch_size=3, collate_fn=NumberedCollator(default_data_collator), num_workers=1, persistent_workers=True
    )
    assert ROW not in next(iter(loader))
    rows.number()
    batch = next(iter(loader))
    assert batch[ROW].tolist() == [0, 1, 2]
    assert batch["pixel_values"].shape == (3, 3, 2, 2)


def test_what_is_not_read_is_marked_and_is_not_a_number():
    data = table()
    rows = NumberedRows(data, "pixel_values")
    rows.plain = undecoded(data, "pixel_values", read_rows(data, range(3)))
    rows.number(unread=True)
    batch = NumberedCollator(default_data_collator)(rows.__getitems__([2, 0, 3]))
    assert batch["labels"].tolist() == [0, 0, 1]
    assert batch["pixel_values"].isnan().all()
    assert row_numbers(batch[ROW]) == ([2, 0, 3], True)
    rows.number()
    batch = NumberedCollator(default_data_collator)(rows.__getitems__([2, 0, 3]))
    assert batch["pixel_values"].tolist() == [[6.0, 6.0], [4.0, 4.0], [7.0, 7.0]]
    assert row_numbers(batch[ROW]) == ([2, 0, 3], False)


def test_without_a_plain_data_set_inputs_are_read():
    rows = NumberedRows(Squares(), "pixel_values")
    rows.number(unread=True)
    assert rows[2]["pixel_values"].unique().tolist() == [4.0]
    assert rows[2][ROW] == 2


def with_new_labels(batch):
    return {**make_pixels(batch), "labels": [5 for _ in batch["labels"]]}


def with_new_column(batch):
    return {**make_pixels(batch), "size": [1 for _ in batch["labels"]]}


def with_tensor_labels(batch):
    return {**make_pixels(batch), "labels": [torch.tensor(label) for label in batch["labels"]]}


def test_only_a_transform_that_makes_nothing_but_the_input_is_left_out():
    assert undecoded(table(), "pixel_values", read_rows(table(), [0, 1])).column_names == ["labels"]
    for transform in (with_new_labels, with_new_column, with_tensor_labels):
        assert undecoded(table(transform), "pixel_values", read_rows(table(transform), [0, 1])) is None
    assert undecoded(Squares(), "pixel_values", read_rows(Squares(), [0])) is None
    assert undecoded(table().with_format(None), "pixel_values", [{"image": 4, "labels": 0}]) is None


def test_a_collator_never_sees_the_number():
    seen = []

    def collate(examples):
        seen.extend(examples)
        return {"x": torch.tensor([example["x"] for example in examples])}

    batch = NumberedCollator(collate)([{"x": 1, ROW: 7}, {"x": 2, ROW: -3}])
    assert seen == [{"x": 1}, {"x": 2}]
    assert row_numbers(batch[ROW]) == ([7, 2], True)
    assert ROW not in NumberedCollator(collate)([{"x": 1}])


def test_every_row_comes_back_from_its_mark():
    for row in (0, 1, 17, 2**40):
        assert row_numbers(torch.tensor([row])) == ([row], False)
        assert row_numbers(torch.tensor([-1 - row])) == ([row], True)


def test_a_padding_collator_takes_numbered_rows(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "b": 2}, unk_token="[PAD]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
    rows = NumberedRows([{"input_ids": [1]}, {"input_ids": [1, 2]}], "input_ids")
    rows.number()
    batch = NumberedCollator(DataCollatorWithPadding(tokenizer))(rows.__getitems__([1, 0]))
    assert batch["input_ids"].tolist() == [[1, 2], [1, 0]]
    assert batch[ROW].tolist() == [1, 0]
