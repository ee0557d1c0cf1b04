from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hf_transfer.callbacks.overrides import Override, put_on, release


class Doubled(Override):
    def compute(self, values):
        return 2 * self.inner(values)


class Shifted(Override):
    def compute(self, values):
        return self.inner(values) + 1


def test_it_stands_in_for_the_forward_and_leaves_no_trace():
    layer, values = nn.Linear(2, 3), torch.randn(4, 2)
    plain, attributes, state = layer(values), set(vars(layer)), layer.state_dict()
    override = Doubled(layer)
    assert torch.equal(layer(values), plain), "it acts only when put on"
    override.put_on()
    override.put_on()
    assert torch.equal(layer(values), 2 * plain)
    assert layer.state_dict().keys() == state.keys() and type(layer) is nn.Linear
    override.take_off()
    override.take_off()
    assert set(vars(layer)) == attributes
    assert torch.equal(layer(values), plain)


def test_hooks_of_the_module_still_run():
    layer, seen = nn.Linear(2, 2), []
    layer.register_forward_hook(lambda module, args, out: seen.append(out))
    Doubled(layer).put_on()
    assert layer(torch.ones(1, 2)) is seen[0]


def test_a_forward_that_another_library_replaced_comes_back():
    layer, values = nn.Linear(2, 2), torch.ones(1, 2)
    own = layer.forward
    layer.forward = lambda values: own(values) - 7
    expected = layer(values)
    override = Doubled(layer)
    override.put_on()
    assert torch.equal(layer(values), 2 * expected)
    override.take_off()
    assert torch.equal(layer(values), expected)


def test_release_takes_off_what_any_run_left_anywhere_in_a_model():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    values = torch.ones(1, 2)
    plain = model(values)
    put_on([Doubled(model[0]), Shifted(model[1][0])])
    assert not torch.equal(model(values), plain)
    release(model)
    assert torch.equal(model(values), plain)
    release(model)


def test_two_of_one_kind_are_refused():
    layer = nn.Linear(2, 2)
    Doubled(layer).put_on()
    with pytest.raises(ValueError, match=r"Two callbacks of one kind.*Pass one of them"):
        Doubled(layer).put_on()


def test_a_copy_made_in_between_steps_is_a_plain_model():
    layer = nn.Linear(2, 2)
    override = Doubled(layer)
    override.put_on()
    override.take_off()
    assert "forward" not in vars(copy.deepcopy(layer))


def test_an_override_must_say_what_it_computes():
    with pytest.raises(NotImplementedError, match="must define `compute`"):
        Override(nn.Linear(1, 1))(torch.ones(1))
