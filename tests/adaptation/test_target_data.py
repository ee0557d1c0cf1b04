"""Target rows: numbered the same in every pass and order, without labels."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_transfer.adaptation.target_data import TargetData
from tests.adaptation.shifted import cut, images, trained


def sources(target):
    rows = Dataset.from_dict({name: value.tolist() for name, value in target.items()}).with_format("torch")
    return {"rows": rows, "loader": DataLoader(rows, batch_size=4, shuffle=True), "batches": cut(target, 4)}


@pytest.mark.parametrize("kind", ["rows", "loader", "batches"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_every_row_once_under_its_own_number_and_no_label(kind, shuffled):
    target = images(10)
    data = TargetData(trained(), sources(target)[kind], batch_size=4)
    seen = []
    for numbers, inputs in data.batches(torch.Generator().manual_seed(1) if shuffled else None):
        assert set(inputs) == {"pixel_values"}
        torch.testing.assert_close(inputs["pixel_values"], target["pixel_values"][numbers])
        seen += numbers
    assert sorted(seen) == list(range(10)) and (seen != sorted(seen)) == shuffled


def test_labels_are_gone_before_the_collator():
    seen = set()

    def collate(rows):
        seen.update(*rows)
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": torch.zeros(len(rows))}

    rows = sources(images(5))["rows"].add_column("label", [0] * 5).add_column("note", ["x"] * 5)
    ((_, inputs), *_) = TargetData(trained(), rows, collator=collate).batches()
    assert seen == {"pixel_values", "note"} and set(inputs) == {"pixel_values"}
