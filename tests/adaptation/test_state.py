"""What both adaptations put back, and when they call it a collapse."""

from __future__ import annotations

import logging

import pytest
import torch

from hf_transfer.adaptation.state import counted_rows, has_collapsed, restored, warn_of_collapse
from tests.adaptation.shifted import flags, trained


def test_flags_are_put_back_after_an_error():
    model = trained()
    model.first.train()
    model.classifier.bias.requires_grad_(False)
    before = flags(model)
    with pytest.raises(KeyError), restored(model):
        model.train().requires_grad_(True)
        raise KeyError
    assert flags(model) == before


@pytest.mark.parametrize(
    ("before", "after", "collapsed"),
    [
        ([0.4, 0.3, 0.3], [0.96, 0.04, 0.0], True),
        ([0.4, 0.3, 0.3], [0.94, 0.06, 0.0], False),
        ([0.9, 0.1, 0.0], [0.97, 0.03, 0.0], False),
    ],
)
def test_a_collapse_is_nearly_all_rows_in_one_class_that_were_not(before, after, collapsed, caplog):
    before, after = torch.tensor(before), torch.tensor(after)
    assert has_collapsed(before, after) == collapsed
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        assert warn_of_collapse("Someone", before, after, "Stop.") == collapsed
    assert ("Someone has collapsed: class 0 is predicted for 96% of the rows, 40% before" in caplog.text) == collapsed


def test_tokens_that_count_are_taken_in_order():
    values = torch.arange(12.0).reshape(2, 3, 2)
    flat, lengths = counted_rows(values, {"attention_mask": torch.tensor([[1, 1, 0], [0, 1, 1]])})
    assert lengths == [2, 2] and flat.tolist() == [[0, 1], [2, 3], [8, 9], [10, 11]]
    assert counted_rows(values, {})[1] == [3, 3] and counted_rows(values[:, 0], {})[1] == [1, 1]
