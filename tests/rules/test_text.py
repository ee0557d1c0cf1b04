"""Kept tokens moved to the left, against a loop; token ids of a batch."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import TransferBatch
from hf_transfer.rules.text import compact, text_of


def test_compact_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        values = torch.randint(1, 90, (4, 6), generator=generator)
        keep = torch.rand(4, 6, generator=generator) < torch.rand(1, generator=generator)
        expected = [
            [v for v, k in zip(row, kept, strict=True) if k] for row, kept in zip(values.tolist(), keep, strict=True)
        ]
        expected = [row + [0] * (6 - len(row)) for row in expected]
        before = values.clone()
        assert compact(values, keep, 0).tolist() == expected and torch.equal(values, before)


def test_text_of_a_batch():
    ids = torch.tensor([[1, 2, 0]])
    batch = TransferBatch(features=torch.zeros(1, 2), inputs={"input_ids": ids, "token_type_ids": ids})
    found, mask, types = text_of(batch, "r")
    assert found is ids and types is ids and mask.tolist() == [[True] * 3]
    batch = TransferBatch(features=torch.zeros(1, 2), inputs={"input_ids": ids, "attention_mask": ids.clamp(max=1)})
    _, mask, types = text_of(batch, "r")
    assert types is None and mask.tolist() == [[True, True, False]]


def test_a_batch_without_words():
    batch = TransferBatch(features=torch.zeros(1, 2), inputs={"pixel_values": torch.zeros(1, 3, 8, 8)})
    with pytest.raises(ValueError, match="Rule `but` reads words.*called with pixel_values.*Use it with a text model"):
        text_of(batch, "but")
