"""Row numbers through shuffling, formats, transforms and mixing, and what they are refused for."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_transfer import mix_domains
from hf_transfer.data.row_index import INDEX, with_index
from hf_transfer.data.sampling import domain_sampler


def table(count=5):
    return Dataset.from_dict({"text": [f"row {i}" for i in range(count)], "label": [i % 2 for i in range(count)]})


def shout(batch):
    return {"text": [text.upper() for text in batch["text"]], "label": batch["label"]}


class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, row):
        if row >= 4:
            raise IndexError(row)
        return {"x": torch.tensor([float(row)]), "labels": row % 2}


def test_numbers_belong_to_their_rows_through_shuffle_and_select():
    data = with_index(table()).shuffle(seed=1).select([3, 0, 0])
    assert all(row["text"] == f"row {row[INDEX]}" for row in data) and data.features[INDEX].dtype == "int64"
    data = with_index(table().shuffle(seed=1).select([3, 0]))
    assert [row["text"] for row in data] == [f"row {row[INDEX]}" for row in data]


def test_a_format_goes_on():
    data = with_index(table().with_format("torch", columns=["label"]))
    assert set(data[0]) == {"label", INDEX} and isinstance(data[3][INDEX], torch.Tensor) and data[3][INDEX] == 3


@pytest.mark.parametrize("columns", [None, ["text", "label"]])
def test_a_transform_goes_on_and_never_sees_the_number(columns):
    seen = []

    def transform(batch):
        seen.append(set(batch))
        return shout(batch)

    data = with_index(table().with_transform(transform, columns=columns))
    assert data[2] == {"text": "ROW 2", "label": 0, INDEX: 2} and data[1:3][INDEX] == [1, 2]
    assert list(data.select_columns([INDEX])[INDEX]) == [0, 1, 2, 3, 4]
    assert seen and all(INDEX not in columns for columns in seen)


def test_after_mixing_all_rows_differ():
    data = with_index(mix_domains(table(), table(3)))
    assert data[INDEX][:] == list(range(8)) and domain_sampler(data, 0) is not None


def test_the_fingerprint_is_a_function_of_the_data():
    assert with_index(table())._fingerprint == with_index(table())._fingerprint != table()._fingerprint


def test_torch_data_sets():
    data = with_index(Items())
    assert len(data) == 4 and data[3][INDEX] == 3 and data[-1][INDEX] == 3
    assert [item[INDEX] for item in data.__getitems__([2, 0])] == [2, 0]
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    batch = next(iter(loader))
    assert torch.equal(batch[INDEX].float(), batch["x"].flatten())


def test_a_mixed_torch_data_set_keeps_its_sampler():
    mixed = mix_domains(Items(), Items())
    data = with_index(mixed)
    assert data[5][INDEX] == 5 and data[5]["domain"] == 1 and domain_sampler(data, 0) is not None


# what is refused


def test_a_second_number_is_refused():
    with pytest.raises(ValueError, match="column `index` already.*second number.*rename_column"):
        with_index(with_index(table()))
    with pytest.raises(ValueError, match="column `index` already"):
        with_index(with_index(Items()))[0]


@pytest.mark.parametrize("data", [table().to_iterable_dataset(), [1, 2], {"train": table()}, None])
def test_streams_and_what_is_no_data_set_are_refused(data):
    with pytest.raises(TypeError, match="with_index got a .*no row numbers that stay.*map-style torch"):
        with_index(data)


def test_items_that_are_no_mapping_are_refused():
    data = with_index(torch.utils.data.TensorDataset(torch.ones(2)))
    with pytest.raises(TypeError, match="Item 0 is a tuple.*no place.*Return a dict"):
        data[0]
