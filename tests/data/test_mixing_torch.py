from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hf_transfer.data.mixing import mix_domains
from hf_transfer.data.mixing_torch import MixedDataset
from hf_transfer.data.sampling import AlternatingSampler


class Rows(Dataset):
    def __init__(self, rows: list) -> None:
        self.rows = rows
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        self.read.append(index)
        return self.rows[index]


def rows(xs, labels) -> Rows:
    return Rows([{"x": float(x), "labels": label} for x, label in zip(xs, labels, strict=True)])


def test_items_of_all_domains_behind_one_index():
    mixed = mix_domains(rows([1, 2], [0, 1]), rows([3], [1]), rows([4, 5], [0, 0]))
    assert isinstance(mixed, MixedDataset) and len(mixed) == 5
    assert [mixed[i]["x"] for i in range(5)] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [mixed[i]["labels"] for i in range(5)] == [0, 1, -100, -100, -100]
    assert [mixed[i]["domain"] for i in range(5)] == mixed.domains.tolist() == [0, 0, 1, 2, 2]
    assert mixed[-1] == mixed[4]
    for index in (5, -6):
        with pytest.raises(IndexError, match="mixed dataset of 5 rows; pass an index below 5"):
            mixed[index]


def test_the_items_of_the_domains_are_left_alone_and_read_lazily():
    source, target = rows([1, 2], [0, 1]), rows([3, 4], [1, 0])
    mixed = mix_domains(source, target)
    assert source.read == [0] and target.read == [0]
    mixed[3]
    assert target.read == [0, 1] and target.rows[1] == {"x": 4.0, "labels": 0}


def test_labelled_domains_and_label_columns_of_other_names():
    source = Rows([{"x": 1, "stars": 3}])
    assert mix_domains(source, rows([1], [1]), label_column="stars")[1] == {"x": 1.0, "stars": -100, "domain": 1}
    both = mix_domains(rows([1], [0]), rows([2], [1]), rows([3], [1]), labelled=(0, 1))
    assert [both[i]["labels"] for i in range(3)] == [0, 1, -100]


@pytest.mark.parametrize(
    ("label", "masked"),
    [
        (3, -100),
        (0.5, -100.0),
        (True, -100),
        (np.float32(0.5), -100.0),
        ([0, 1], [-100, -100]),
        ([0.0, 1.0], [-100.0, -100.0]),
        (torch.tensor(1), torch.tensor(-100)),
        (torch.tensor([0.0, 1.0]), torch.tensor([-100.0, -100.0])),
        (torch.tensor([True]), torch.tensor([-100])),
        (np.array([0, 1], dtype=np.uint8), np.array([-100, -100])),
    ],
)
def test_masks_keep_the_form_of_the_label(label, masked):
    mixed = mix_domains(rows([1], [label]), rows([2], [label]))
    got = mixed[1]["labels"]
    if isinstance(masked, (torch.Tensor, np.ndarray)):
        assert got.dtype == masked.dtype and got.shape == masked.shape and got.tolist() == masked.tolist()
    else:
        assert got == masked and type(got) is type(masked)


def test_targets_without_labels_take_the_sources_form():
    assert mix_domains(rows([1], [0.5]), Rows([{"x": 2.0}]))[1] == {"x": 2.0, "labels": -100.0, "domain": 1}
    source = Rows([{"input_ids": [5, 6], "labels": [0, 1]}])
    target = Rows([{"input_ids": [7, 8, 9]}])
    assert mix_domains(source, target)[1]["labels"] == [-100, -100, -100]
    multi = mix_domains(Rows([{"x": 1.0, "labels": torch.zeros(3)}]), Rows([{"x": 2.0}]))
    assert multi[1]["labels"].tolist() == [-100.0] * 3


def test_through_a_data_loader_with_the_alternating_sampler():
    mixed = mix_domains(rows(range(6), [0, 1] * 3), rows(range(2), [0, 1]))
    loader = DataLoader(mixed, batch_size=4, sampler=AlternatingSampler(mixed, seed=0))
    for batch in loader:
        assert batch["domain"].tolist() == [0, 1, 0, 1]
        assert (batch["labels"] == -100).tolist() == [False, True, False, True]
    assert pickle.loads(pickle.dumps(mixed))[7]["domain"] == 1


def test_errors():
    with pytest.raises(ValueError, match=r"target \(domain 1\) is empty"):
        mix_domains(rows([1], [0]), Rows([]))
    with pytest.raises(ValueError, match=r"source \(domain 0\) has no label column; its columns are `x`"):
        mix_domains(Rows([{"x": 1}]), rows([1], [0]))
    with pytest.raises(ValueError, match="has a column `domain` already"):
        mix_domains(Rows([{"x": 1, "labels": 0, "domain": 1}]), rows([1], [0]))
    with pytest.raises(ValueError, match="lacks `x` and has `y` besides"):
        mix_domains(rows([1], [0]), Rows([{"y": 1, "labels": 0}]))
    twice = Rows([{"x": 1, "label": 0, "labels": 0}])
    with pytest.raises(ValueError, match="`labels` besides the label column.*Remove it"):
        mix_domains(twice, twice, label_column="label")
    with pytest.raises(TypeError, match=r"Items of the source \(domain 0\) are tuple.*Return a dict"):
        mix_domains(Rows([(1, 0)]), rows([1], [0]))


def test_a_dataset_without_length_is_refused():
    class Endless(Dataset):
        def __getitem__(self, index):
            return {"x": index, "labels": 0}

    with pytest.raises(TypeError, match="Endless without a length.*Define `__len__`"):
        mix_domains(Endless(), rows([1], [0]))


def test_sample_weights_are_handed_on_and_are_one_elsewhere():
    weighted = Rows([{"x": 1.0, "labels": 0, "sample_weight": 0.5}, {"x": 2.0, "labels": 1, "sample_weight": 2.0}])
    for mixed, expected in (
        (mix_domains(weighted, rows([3], [1])), [0.5, 2.0, 1.0]),
        (mix_domains(rows([3], [1]), weighted), [1.0, 0.5, 2.0]),
    ):
        assert [mixed[i]["sample_weight"] for i in range(3)] == expected
    assert "sample_weight" not in mix_domains(rows([3], [1]), rows([3], [1]))[0]
