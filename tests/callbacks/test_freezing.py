from __future__ import annotations

import pytest

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks import FreezeBackbone
from tests.callbacks.harness import changed, copy_of, make_trainer, seeded
from tests.models import TINY, lora, tiny_resnet


@pytest.mark.parametrize("name", TINY)
def test_only_the_head_moves_and_no_buffer_does(name, tmp_path):
    model = seeded(TINY[name])
    before = copy_of(model)
    make_trainer(tmp_path, model, FreezeBackbone(), max_steps=3).train()
    assert changed(before, copy_of(model)) == set(anatomy(model).parts()["head"])


def test_the_stock_trainer_would_move_the_statistics(tmp_path):
    model = seeded(tiny_resnet)
    model.resnet.requires_grad_(False)
    before = copy_of(model)
    make_trainer(tmp_path, model, max_steps=1).train()
    assert any("running_mean" in name for name in changed(before, copy_of(model)))


def test_the_neck_trains_on_request(tmp_path):
    model = seeded()
    before = copy_of(model)
    make_trainer(tmp_path, model, FreezeBackbone(train=["head", "neck"]), max_steps=2).train()
    parts = anatomy(model).parts()
    assert changed(before, copy_of(model)) == {*parts["head"], *parts["neck"]}


def test_what_is_named_under_freeze_stands_still_and_the_rest_moves(tmp_path):
    model = seeded()
    before = copy_of(model)
    make_trainer(tmp_path, model, FreezeBackbone(freeze=["embeddings", "block.0-1", "*.LayerNorm.*"])).train()
    moved = changed(before, copy_of(model))
    parts = anatomy(model).parts()
    expected = {name for part in ("block.2", "neck", "head") for name in parts[part] if "LayerNorm" not in name}
    # The gradient of a key's bias is zero in exact arithmetic: rounding alone decides whether it moves.
    assert {name for name in expected if "key.bias" not in name} <= moved <= expected


def test_adapters_of_a_frozen_backbone_stand_still(tmp_path):
    model = lora(seeded(), ["query"], "classifier")
    before = copy_of(model)
    make_trainer(tmp_path, model, FreezeBackbone(), max_steps=2).train()
    assert {name.split(".")[-1] for name in changed(before, copy_of(model))} == {"weight", "bias"}
    assert all("modules_to_save" in name for name in changed(before, copy_of(model)))


def test_lora_without_a_trained_head_leaves_nothing_to_train(tmp_path):
    model = lora(seeded(), ["query"])
    with pytest.raises(ValueError, match=r"Phase 1 \(start: head\) trains nothing .* `modules_to_save`"):
        make_trainer(tmp_path, model, FreezeBackbone()).train()


def test_everything_is_thawed_again_afterwards(tmp_path):
    model = seeded()
    trainer = make_trainer(tmp_path, model, FreezeBackbone(), max_steps=2)
    trainer.train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model._forward_pre_hooks
    assert all(module.training for module in model.train().modules())


@pytest.mark.parametrize(
    ("options", "text"),
    [({}, "head"), ({"train": ["head", "neck"]}, "head, neck"), ({"freeze": "embeddings"}, "all without embeddings")],
)
def test_it_says_what_trains(options, text):
    assert str(FreezeBackbone(**options)) == f"FreezeBackbone\n  1. start: {text}"
