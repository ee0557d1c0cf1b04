from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from datasets import Dataset, DatasetDict

from hf_transfer.data.mixing import mix_domains


SOURCE = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
TARGET = Dataset.from_dict({"text": ["c"], "label": [1]})


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"text": "x", "label": index}


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield {"text": "x", "label": 0}


def test_each_kind_of_dataset_gives_its_own_kind():
    assert isinstance(mix_domains(SOURCE, TARGET), Dataset)
    stream = mix_domains(SOURCE.to_iterable_dataset(), TARGET.to_iterable_dataset())
    assert type(stream).__name__.endswith("IterableDataset")
    rows = mix_domains(Rows(), Rows())
    assert isinstance(rows, torch.utils.data.Dataset)
    expected = [(0, 0), (1, 0), (-100, 1)]
    assert [(row["label"], row["domain"]) for row in mix_domains(SOURCE, TARGET)] == expected
    assert [(row["label"], row["domain"]) for row in stream] == [(0, 0), (-100, 1), (1, 0)]
    assert [(rows[i]["label"], rows[i]["domain"]) for i in range(4)] == [(0, 0), (1, 0), (-100, 1), (-100, 1)]


def test_one_dataset_is_not_enough():
    with pytest.raises(ValueError, match=r"source only.*nothing to adapt.*mix_domains\(source, target\)"):
        mix_domains(SOURCE)


@pytest.mark.parametrize("labelled", [(), (1,), (0, 2), (0, -1)])
def test_labelled_lists_domain_numbers_with_the_source(labelled):
    with pytest.raises(ValueError, match=r"does not fit 2 domains.*Choose from \(0, 1\), 0 included"):
        mix_domains(SOURCE, TARGET, labelled=labelled)


def test_splits_must_be_picked():
    with pytest.raises(TypeError, match=r"dictionary of splits.*source\[\"train\"\]"):
        mix_domains(DatasetDict(train=SOURCE), DatasetDict(train=TARGET))


@pytest.mark.parametrize(
    "domains",
    [(SOURCE, SOURCE.to_iterable_dataset()), (SOURCE, Rows()), (Stream(), Stream()), (SOURCE, [{"text": "x"}])],
    ids=["map and stream", "datasets and torch", "torch streams", "list"],
)
def test_kinds_cannot_be_mixed(domains):
    with pytest.raises(TypeError, match="mix_domains got .*can only share batches.*Convert them"):
        mix_domains(*domains)


def test_importing_it_does_not_import_datasets():
    code = (
        "import sys, importlib.util as u\n"
        "sys.modules['datasets'] = None\n"  # importing it raises
        "import hf_transfer.data.mixing, hf_transfer.data.sampling\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
