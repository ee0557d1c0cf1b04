"""Training and evaluation mode, put back module by module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_transfer.modes import at_rest, modes_put_back, undisturbed


def mixed() -> nn.Sequential:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    model[1][0].eval()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("change", ["train", "eval"])
def test_each_module_gets_its_own_mode_back(change):
    model = mixed()
    before = modes(model)
    with modes_put_back(model):
        getattr(model, change)()
        assert modes(model) != before
    assert modes(model) == before


@pytest.mark.parametrize("context", [at_rest, modes_put_back])
def test_also_after_an_error(context):
    model = mixed()
    before = modes(model)
    with pytest.raises(KeyError), context(model):
        model.eval()
        raise KeyError
    assert modes(model) == before


def test_at_rest_everything_evaluates():
    model = mixed()
    with at_rest(model):
        assert not any(modes(model))


@pytest.mark.parametrize("seed", [None, 7])
def test_undisturbed_puts_modes_random_numbers_and_gradients_back(seed):
    model = mixed()
    before, state = modes(model), torch.get_rng_state()
    with pytest.raises(KeyError), undisturbed(model, seed):
        assert not any(modes(model)) and not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        torch.rand(3)
        raise KeyError
    assert modes(model) == before and torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_undisturbed_begins_at_the_seed():
    with undisturbed(mixed(), 7):
        first = torch.rand(3)
    with undisturbed(mixed(), 7):
        assert torch.equal(torch.rand(3), first)
