"""Batches of cached features against rows read one by one."""

from __future__ import annotations

import pickle

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from torch.utils.data import DataLoader
from transformers import default_data_collator

from hf_transfer.features.training.feature_batches import FeatureBatch, FeatureCollator, FeatureTable


def pooled(count=10, width=4, dtype="float32", seed=0):
    values = np.random.default_rng(seed).normal(size=(count, width)).astype(dtype)
    kinds = Features(
        {"features": List(Value(dtype), length=width), "labels": Value("int64"), "domain": Value("int64")}
    )
    columns = {"features": list(values), "labels": list(range(count)), "domain": [i % 2 for i in range(count)]}
    return Dataset.from_dict(columns, features=kinds), values


def ragged(lengths=(3, 1, 4), width=2):
    rows = [
        np.arange(length * width, dtype=np.float32).reshape(length, width) + 10 * i for i, length in enumerate(lengths)
    ]
    kinds = Features({"features": List(List(Value("float32"), length=width)), "labels": List(Value("int64"))})
    labels = [[i] * length for i, length in enumerate(lengths)]
    return Dataset.from_dict({"features": [row.tolist() for row in rows], "labels": labels}, features=kinds), rows


def batch_of(data, rows, columns=("features", "labels")):
    (batch,) = FeatureTable(data, columns).__getitems__(rows)
    return batch.tensors


def test_rows_come_in_the_order_asked_for():
    data, values = pooled()
    batch = batch_of(data, [7, 0, 7, 3], ["features", "labels", "domain"])
    assert torch.equal(batch["features"], torch.from_numpy(values[[7, 0, 7, 3]]))
    assert batch["labels"].tolist() == [7, 0, 7, 3] and batch["domain"].tolist() == [1, 0, 1, 1]
    assert batch["labels"].dtype == torch.int64 and batch["features"].dtype == torch.float32


def test_shards_and_selections_are_looked_through():
    parts = [pooled(count, seed=count) for count in (3, 5, 2)]
    data = datasets.concatenate_datasets([part for part, _ in parts])
    values = np.concatenate([part for _, part in parts])
    order = [9, 2, 3, 8, 0]
    chosen = data.select(order)
    assert torch.equal(batch_of(chosen, [4, 1, 0])["features"], torch.from_numpy(values[[0, 2, 9]]))
    shuffled = data.shuffle(seed=1)
    batch = batch_of(shuffled, range(10))
    for row in range(10):
        assert batch["features"][row].tolist() == pytest.approx(shuffled[row]["features"])
    sliced = data.select(range(4, 9))  # contiguous: a slice of the table, without indices
    assert torch.equal(batch_of(sliced, [0, 4])["features"], torch.from_numpy(values[[4, 8]]))


def test_half_precision_stays():
    data, values = pooled(dtype="float16")
    batch = batch_of(data, [1, 2])
    assert batch["features"].dtype == torch.float16
    assert torch.equal(batch["features"], torch.from_numpy(values[[1, 2]]))


def test_tokens_are_padded_and_masked():
    data, rows = ragged()
    batch = batch_of(data, [1, 2])
    assert batch["features"].shape == (2, 4, 2)
    assert torch.equal(batch["features"][1], torch.from_numpy(rows[2]))
    assert torch.equal(batch["features"][0, :1], torch.from_numpy(rows[1])) and not batch["features"][0, 1:].any()
    assert batch["labels"].tolist() == [[1, -100, -100, -100], [2, 2, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]


def test_tokens_of_one_length_have_a_mask_too():
    data, _ = ragged((2, 2))
    assert batch_of(data, [0, 1])["attention_mask"].tolist() == [[1, 1], [1, 1]]


def test_several_labels_and_real_labels():
    data, _ = pooled(3)
    several = data.remove_columns("labels").add_column("labels", [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert batch_of(several, [2, 0])["labels"].tolist() == [[1.0, 1.0], [1.0, 0.0]]
    real = data.remove_columns("labels").add_column("labels", [0.5, 1.5, 2.5])
    labels = batch_of(real, [2])["labels"]
    assert labels.dtype == torch.float32 and labels.tolist() == [2.5]
    flags = data.remove_columns("labels").add_column("labels", [True, False, True])
    assert batch_of(flags, [0, 1])["labels"].tolist() == [1, 0]


def test_batches_can_be_changed_without_touching_the_data():
    data, values = pooled()
    batch_of(data, [0])["features"].zero_()
    assert torch.equal(batch_of(data, [0])["features"], torch.from_numpy(values[[0]]))


def test_text_is_no_number():
    data = pooled(2)[0].add_column("text", ["a", "b"])
    with pytest.raises(ValueError, match="`text` holds .*string.*only numbers.*name a column"):
        FeatureTable(data, ["features", "text"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_gets_whole_batches(workers):
    data, values = pooled()
    table = FeatureTable(data, ["features", "labels"])
    loader = DataLoader(table, batch_size=4, collate_fn=FeatureCollator(default_data_collator), num_workers=workers)
    batches = list(loader)
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([batch["features"] for batch in batches]), torch.from_numpy(values))
    assert len(table) == 10 and isinstance(table[3], FeatureBatch)


def test_a_pickled_table_maps_its_file_again(tmp_path):
    data, values = pooled(2000, 64)
    data.save_to_disk(tmp_path / "data")
    table = FeatureTable(datasets.load_from_disk(tmp_path / "data"), ["features"])
    stored = pickle.dumps(table)
    assert len(stored) < values.nbytes / 10
    assert torch.equal(pickle.loads(stored)[5].tensors["features"], torch.from_numpy(values[[5]]))


def test_rows_of_the_data_set_are_stacked():
    data, values = pooled()
    batch = FeatureCollator(default_data_collator)([data[2], data[5]])
    torch.testing.assert_close(batch["features"], torch.from_numpy(values[[2, 5]]))
    assert batch["labels"].tolist() == [2, 5]
    tokens, _ = ragged()
    stacked = FeatureCollator(default_data_collator)([tokens[0], tokens[1]])
    theirs = batch_of(tokens, [0, 1])
    assert stacked.keys() == theirs.keys() and all(torch.equal(stacked[name], theirs[name]) for name in theirs)


def test_other_rows_go_to_the_collator_of_the_model():
    rows = [{"input_ids": [1, 2], "labels": 0}]
    assert FeatureCollator(lambda given: {"got": given})(rows) == {"got": rows}
