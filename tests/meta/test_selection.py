"""Words and patterns for parameters."""

from __future__ import annotations

import pytest

from hf_transfer.adapters import add_adapter
from hf_transfer.meta.scale_shift import add_scale_shift
from hf_transfer.meta.selection import select
from tests import models
from tests.meta.rows import model_of


HEAD = ("classifier.weight", "classifier.bias")


def test_words_select_what_they_say():
    model = model_of("bert")
    everything = [name for name, _ in model.named_parameters()]
    assert select(model, "head").trained == HEAD == select(model, "head").head
    assert list(select(model, "all").trained) == everything
    found = select(model, ["block.-1"]).trained
    assert set(HEAD) < set(found) and all("layer.2." in name for name in set(found) - set(HEAD))
    model.bert.requires_grad_(False)
    assert set(select(model, "all").trained) == set(HEAD)


def test_scale_and_shift_are_selected_with_the_head():
    model = add_scale_shift(model_of("bert"))
    found = select(model, "scale_shift")
    assert set(HEAD) < set(found.trained)
    assert all(name.endswith((".scale", ".shift")) for name in set(found.trained) - set(HEAD))


def test_of_an_adapter_only_what_it_trains():
    pytest.importorskip("peft")
    model = add_adapter(model_of("bert"))
    found = select(model, "lora")
    rest = set(found.trained) - set(found.head)
    assert rest and all("lora_" in name for name in rest)
    assert all(".modules_to_save." in name and name.endswith(("weight", "bias")) for name in found.head)
    assert set(select(model, "all").trained) == {n for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ("lora", r"the model has none that train: .* `model = add_adapter\(model\)`"),
        ("scale_shift", r"the model has none that train: .* `model = add_scale_shift\(model\)`"),
        ("neck", r"`parameters='neck'` is no word .* Use one of head, lora, scale_shift, all, or a list"),
        (["nothing.*"], "`nothing.*` is no part of this model"),
    ],
)
def test_what_selects_nothing_is_refused(parameters, match):
    with pytest.raises(ValueError, match=match):
        select(model_of("bert"), parameters)


def test_an_adapter_with_a_frozen_head_is_refused():
    pytest.importorskip("peft")
    model = models.lora(model_of("bert"), ["query"])
    with pytest.raises(ValueError, match=r"leaves the head frozen: .* `add_adapter\(model\)`"):
        select(model, "lora")
