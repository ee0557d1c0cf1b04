"""Which weights an adapter leaves alone, their fingerprint, and what a base model is called elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from hf_transfer.adapters.base_checkpoint import frozen_fingerprint, frozen_weights, stated_base, stated_name
from tests.adapters.saved import adapted, config_for, load_base
from tests.models import tiny_bert


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("user/name", ("user/name", None)),
        ("embedded:image", ("embedded:image", None)),
        ("/home/me/model", ("/home/me/model", None)),
        ("/x/hf_transfer/source_text_0123456789ab", ("embedded:text", None)),
        ("/x/elsewhere/source_text_0123456789ab", ("/x/elsewhere/source_text_0123456789ab", None)),
        (f"/c/models--user--my-name/snapshots/{'a1' * 20}", ("user/my-name", "a1" * 20)),
        (f"/c/models--bert/snapshots/{'a1' * 20}/", ("bert", "a1" * 20)),
    ],
)
def test_name_elsewhere(name, stated):
    assert stated_name(name) == stated


def test_model_from_no_checkpoint():
    model = get_peft_model(tiny_bert(), LoraConfig(r=1, target_modules=["query"]))  # type: ignore[arg-type]
    assert stated_base(model) == (None, None)


def test_frozen_weights_are_those_of_the_base_but_for_what_is_saved(bases):
    base = load_base("text", bases["text"])
    expected = {name: value.clone() for name, value in base.named_parameters() if not name.startswith("classifier")}
    found = dict(frozen_weights(get_peft_model(base, config_for("text"))))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_trained_biases_are_left_out(bases):
    config = config_for("text", bias="all")
    names = dict(frozen_weights(get_peft_model(load_base("text", bases["text"]), config)))
    assert names and not [name for name in names if name.endswith(".bias")]


@pytest.mark.parametrize("kind", ["text", "image", "norms"])
def test_training_does_not_change_the_fingerprint(bases, kind):
    fresh = frozen_fingerprint(get_peft_model(load_base(kind, bases[kind]), config_for(kind)))
    trained = frozen_fingerprint(adapted(kind, bases[kind]))
    assert fresh is not None and trained is not None and torch.equal(fresh, trained)


def test_method_and_other_adapters_do_not_change_it(bases):
    lora = get_peft_model(load_base("text", bases["text"]), config_for("text"))
    scaled = IA3Config(task_type="SEQ_CLS", target_modules=["key"], feedforward_modules=[])
    ia3 = get_peft_model(load_base("text", bases["text"]), scaled)
    first, second = frozen_fingerprint(lora), frozen_fingerprint(ia3)
    lora.add_adapter("other", config_for("text", modules_to_save=["pooler"]))
    third = frozen_fingerprint(lora)
    assert first is not None and second is not None and third is not None
    assert torch.equal(first, second) and torch.equal(first, third)
    other = frozen_fingerprint(lora, "other")  # which has a pooler of its own
    assert other is not None and not torch.equal(first, other)


def test_one_changed_weight_changes_it(bases):
    model = get_peft_model(load_base("image", bases["image"]), config_for("image"))
    before = frozen_fingerprint(model)
    with torch.no_grad():
        layer: Any = model.get_base_model().get_submodule("vit.layers.1.attention.k_proj")
        layer.weight[0, 0] += 0.1
    after = frozen_fingerprint(model)
    assert before is not None and after is not None and not torch.equal(before, after)


def test_merged_in_place_there_is_none(bases):
    model = get_peft_model(load_base("text", bases["text"]), config_for("text"))
    model.merge_adapter()
    assert frozen_fingerprint(model) is None
    model.unmerge_adapter()
    assert frozen_fingerprint(model) is not None


def test_weights_without_values_have_none(bases):
    model = get_peft_model(load_base("text", bases["text"]), config_for("text")).to("meta")
    assert frozen_fingerprint(model) is None
