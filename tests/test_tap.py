"""What is read off a forward beside its logits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from hf_transfer.tap import HiddenStateTaps, first_tensor
from tests.models import batch_for, tiny_bert


HIDDEN = torch.ones(2, 3)


@pytest.mark.parametrize(
    "output",
    [HIDDEN, (HIDDEN, torch.zeros(1)), (None, [HIDDEN]), BaseModelOutput(last_hidden_state=HIDDEN), {"a": HIDDEN}],
    ids=["tensor", "tuple", "nested", "model output", "mapping"],
)
def test_the_hidden_state_is_the_first_tensor(output):
    assert first_tensor(output) is HIDDEN


@pytest.mark.parametrize("output", [None, (), (None, "text"), {}, 3.0])
def test_without_a_tensor_there_is_none(output):
    assert first_tensor(output) is None


class Returns(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.block = nn.Identity()
        self.output = output

    def forward(self, x):
        return self.block(self.output)


def test_states_are_taken_once_and_only_while_open():
    model = Returns((HIDDEN, None))
    taps = HiddenStateTaps(model, ["block"])
    model(HIDDEN)
    assert taps.take() == {}
    taps.open = True
    model(HIDDEN)
    assert taps.take()["block"] is HIDDEN and taps.take() == {}
    taps.remove()
    model(HIDDEN)
    assert taps.take() == {}


def test_a_module_without_a_hidden_state_is_refused():
    model = Returns((None, "text"))
    taps = HiddenStateTaps(model, ["block"])
    taps.open = True
    with pytest.raises(ValueError, match="`block` returned a tuple without a tensor.*Name a block"):
        model(HIDDEN)


def test_an_unknown_module_is_refused():
    with pytest.raises(ValueError, match="no module `nowhere`: its output cannot be read. Name one of its blocks"):
        HiddenStateTaps(Returns(None), ["nowhere"])


def test_a_copy_of_the_model_has_taps_of_its_own():
    """A hook that closed over the taps would go on filling those of the original."""
    model: Any = tiny_bert().eval()
    model.taps = HiddenStateTaps(model, ["bert.encoder.layer.0"])
    twin = copy.deepcopy(model)
    twin.taps.open = True
    batch = {key: value for key, value in batch_for(model).items() if key != "domain"}
    twin(**batch)
    assert list(twin.taps.take()) == ["bert.encoder.layer.0"] and model.taps.take() == {}
