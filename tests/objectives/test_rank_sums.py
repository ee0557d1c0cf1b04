from __future__ import annotations

import pytest
import torch
from torch import distributed

from hf_transfer.objectives.multitask.rank_sums import mean_over_ranks, sum_over_ranks


def test_alone_nothing_is_changed():
    values = torch.tensor([1.0, 2.0])
    assert sum_over_ranks(values) is values and mean_over_ranks(values).tolist() == [1, 2]


@pytest.fixture
def three_ranks(monkeypatch):
    """As seen from one of three ranks that all hold the same."""
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(distributed, "all_reduce", lambda values: values.mul_(3))


def test_sums_and_means_are_made_in_place(three_ranks):
    values = torch.tensor([1.0, 2.0])
    assert sum_over_ranks(values) is values and values.tolist() == [3, 6]
    assert mean_over_ranks(values).tolist() == [3, 6]
