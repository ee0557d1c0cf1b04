"""Training and evaluation mode, put back module by module."""

from __future__ import annotations

import pytest
from torch import nn

from hf_transfer.modes import at_rest, modes_put_back


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
