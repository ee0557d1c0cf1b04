"""Kinds of layers, and names that PEFT matches exactly."""

from __future__ import annotations

import random
import re

import pytest
from torch import nn

from hf_transfer import anatomy
from hf_transfer.adapters.targets import (
    chosen,
    keys_and_values,
    layers,
    matched,
    narrowing,
    readable_names,
    shortest_names,
)
from tests.architectures import architecture, build
from tests.models import tiny_bert, tiny_gpt2, tiny_llama, tiny_resnet, tiny_vit, tiny_wav2vec2


def _kinds(model: nn.Module) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for layer in layers(model, anatomy(model)):
        found.setdefault(layer.kind, set()).add(re.sub(r"^.*\.\d+\.", "", layer.name))
    return found


@pytest.mark.parametrize(
    ("make", "attention", "mlp"),
    [
        (
            tiny_bert,
            {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"},
            {"intermediate.dense", "output.dense"},
        ),
        (tiny_gpt2, {"attn.c_attn", "attn.c_proj"}, {"mlp.c_fc", "mlp.c_proj"}),
        (
            tiny_llama,
            {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"},
            {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
        ),
        (
            tiny_wav2vec2,
            {"attention.k_proj", "attention.v_proj", "attention.q_proj", "attention.out_proj"},
            {"feed_forward.intermediate_dense", "feed_forward.output_dense"},
        ),
    ],
)
def test_transformers_have_attention_and_mlps(make, attention, mlp):
    kinds = _kinds(make())
    assert kinds["attention"] == attention
    assert kinds["mlp"] == mlp
    assert kinds.keys() == {"attention", "mlp", "norm"}  # no head, no pooler, no embedding


def test_of_a_convolutional_network_the_stem_is_left_out():
    model = tiny_resnet()
    found = layers(model, anatomy(model))
    assert {layer.type for layer in found if layer.kind == "convolution"} == {"Conv2d"}
    assert not any("embedder" in layer.name for layer in found if layer.kind == "convolution")
    assert any("embedder" in layer.name for layer in found if layer.kind == "norm")  # norms count everywhere
    inside = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and "encoder" in name]
    assert [layer.name for layer in found if layer.kind == "convolution"] == inside


def test_grouped_convolutions_are_told_apart():
    model = build(architecture("MobileNetV2ForImageClassification"))
    types = {layer.name.split(".")[-2]: layer.type for layer in layers(model, anatomy(model)) if layer.kind != "norm"}
    assert types["conv_3x3"] == "GroupedConv2d"
    assert types["expand_1x1"] == types["reduce_1x1"] == "Conv2d"


def test_routers_and_bare_expert_weights_are_left_out():
    model = build(architecture("Qwen2MoeForSequenceClassification"), num_hidden_layers=2)
    names = {layer.name for layer in layers(model, anatomy(model)) if layer.kind != "norm"}
    assert any(name.endswith("q_proj") for name in names)
    assert any(name.endswith("shared_expert.down_proj") for name in names)
    assert not any(name.endswith(("gate", "router", "experts")) for name in names)


def test_the_layers_are_the_same_under_an_adapter():
    from peft import LoraConfig, get_peft_model

    bare = tiny_bert()
    expected = layers(bare, anatomy(bare))
    for options in ({"modules_to_save": ["bert.encoder.layer.2", "classifier"]}, {}):
        model = tiny_bert()
        wrapped = get_peft_model(model, LoraConfig(target_modules=["query", "dense"], **options))
        base = wrapped.get_base_model()
        assert layers(base, anatomy(base)) == expected


def test_ia3_takes_keys_values_and_what_leads_back():
    model = tiny_vit()
    found = layers(model, anatomy(model))
    assert {name.rpartition(".")[2] for name in keys_and_values(found)} == {"k_proj", "v_proj"}
    assert {name.rpartition(".")[2] for name in narrowing(found)} == {"fc2"}
    assert {name.rpartition(".")[2] for name in chosen(found, ["all"], scaling=True)} == {
        "k_proj",
        "v_proj",
        "fc2",
        "layernorm_before",
        "layernorm_after",
        "layernorm",
    }
    assert chosen(found, ["attention"]) == [layer.name for layer in found if layer.kind == "attention"]


def test_shortest_names_match_exactly_what_is_wanted():
    draw = random.Random(0)
    for _ in range(300):
        keys = "abcd"
        names = sorted({".".join(draw.choices(keys, k=draw.randint(1, 4))) for _ in range(12)})
        wanted = draw.sample(names, k=draw.randint(1, len(names)))
        others = set(names) - set(wanted)
        # a name that is the end of another cannot be told apart from it by PEFT, whatever is written
        wanted = [one for one in wanted if not any(other.endswith(f".{one}") for other in others)]
        if wanted:
            found = shortest_names(wanted, set(names) - set(wanted))
            assert set(matched(found, names)) == set(wanted)


def test_many_names_become_a_pattern_and_few_do_not():
    blocks = [f"vision.layers.{number}.mlp.fc1" for number in range(12)]
    pattern = readable_names(blocks, ["vision.head.mlp.fc1"])
    assert isinstance(pattern, str)
    assert matched(pattern, [*blocks, "vision.head.mlp.fc1"]) == blocks
    assert readable_names(blocks, ["vision.head.fc"]) == ["fc1"]
    # a pattern that would take too much is not used
    odd = blocks[::2]
    assert matched(readable_names(odd, set(blocks) - set(odd)), blocks) == odd
