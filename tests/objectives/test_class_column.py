"""Where few-shot objectives read the classes of their rows."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import Subset, TensorDataset

from hf_transfer.objectives.few_shot.class_column import class_column, refuse_other_problems
from tests.models import lora, tiny_token_bert


class Listed(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


def test_a_data_set_with_columns_is_handed_on_untouched():
    data = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]})
    assert class_column("X", data) is data
    part = Subset(data, [1])
    assert class_column("X", part) is part


def test_rows_of_a_torch_dataset_are_asked_for_their_label():
    assert class_column("X", Listed([{"labels": torch.tensor(2)}, {"labels": -100}])) == [2, -100]
    assert class_column("X", [{"label": 1}]) == [1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (IterableDataset.from_generator(lambda: iter([{"labels": 1}])), "X on a IterableDataset: it draws.*stream"),
        (Listed([{"text": "a", "id": 1}]), "X on a data set with rows of id, text: without `labels`.*-100"),
        ([], "X on a data set with no rows"),
    ],
)
def test_refuses(data, message):
    with pytest.raises(ValueError, match=message):
        class_column("X", data)


def test_rows_without_names_are_refused_by_their_kind():
    with pytest.raises(ValueError, match="X on a data set with rows of a tuple: without"):
        class_column("X", TensorDataset(torch.zeros(2)))


def test_a_token_classifier_is_seen_below_peft():
    with pytest.raises(ValueError, match="X on a token classifier"):
        refuse_other_problems("X", lora(tiny_token_bert(), ["query"], "classifier"), 3)
