"""The attention layers of every architecture, and whose maps and projections can be read."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import anatomy
from hf_transfer.attention_layers import ROLES, attention_layer
from tests.architectures import architecture, build
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_gpt2, tiny_llama, tiny_resnet, tiny_vit


TRANSFORMERS = {kind: make for kind, make in TINY.items() if kind != "resnet"}


def last(model):
    return attention_layer(model, anatomy(model).blocks[-1])


def outputs_of(model, names):
    """What modules return in a forward in evaluation mode."""
    seen, hooks = {}, []
    for name in names:
        hook = model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output})
        )
        hooks.append(hook)
    batch = {name: value for name, value in batch_for(model).items() if name not in ("labels", "domain")}
    with torch.no_grad():
        model.eval()(**batch)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_maps_and_projections_are_those_of_the_model(kind):
    """The maps, computed anew from the projections that were found, are those the layer returns second."""
    torch.manual_seed(0)
    model = TRANSFORMERS[kind]()
    model.set_attn_implementation("eager")
    layer = last(model)
    assert layer.implementation == "eager" and layer.records_maps and (layer.heads, layer.head_width) == (2, 8)
    found = outputs_of(model, {layer.name, *(projection.module for projection in layer.projections.values())})
    maps = found[layer.name][1]
    query, key = (
        layer.projections[role].of(found[layer.projections[role].module]).unflatten(-1, (2, 8)).transpose(1, 2)
        for role in ("query", "key")
    )
    assert maps.shape == (4, 2, query.shape[2], key.shape[2])
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))
    if kind == "llama":
        return  # its queries and keys are turned by their position before they meet
    scores = (query / (8**0.5) @ key.mT)[0]  # a row without padding
    if kind == "gpt2":
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
    torch.testing.assert_close(maps[0], scores.softmax(-1), rtol=1e-4, atol=1e-5)


def test_values_of_a_fused_projection_are_its_last_third():
    model = tiny_gpt2()
    layer = last(model)
    assert [layer.projections[role].third for role in ROLES] == [0, 1, 2] and layer.fused is None
    output = torch.arange(6.0).expand(1, 1, 6)
    assert layer.projections["value"].of(output).tolist() == [[[4.0, 5.0]]]


def test_fewer_heads_of_keys_and_values():
    model = build(architecture("Qwen2ForSequenceClassification"), num_hidden_layers=1, num_key_value_heads=4)
    layer = last(model)
    widths = {role: layer.projections[role].width for role in ROLES}
    assert widths["query"] == layer.heads * layer.head_width and widths["key"] == widths["value"] == 4 * 128


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2", "vit"])
def test_under_lora_the_adapted_output_is_read(kind):
    targets = r".*(query|value|q_proj|v_proj|c_attn)"
    model = lora(TINY[kind](), targets, **({"fan_in_fan_out": True} if kind == "gpt2" else {}))
    layer = last(model)
    module = model.get_submodule(layer.projections["value"].module)
    assert hasattr(module, "lora_A"), "not the frozen layer inside"
    assert {role: projection.width for role, projection in layer.projections.items()} == dict.fromkeys(ROLES, 16)


@pytest.mark.parametrize(
    ("name", "projections", "maps"),
    [
        ("RobertaForSequenceClassification", True, True),
        ("DistilBertForSequenceClassification", True, True),
        ("AlbertForSequenceClassification", True, True),
        ("ElectraForTokenClassification", True, True),
        ("ModernBertForSequenceClassification", True, True),
        ("DeiTForImageClassification", True, True),
        ("Wav2Vec2ForSequenceClassification", True, True),
        ("BartForSequenceClassification", True, True),
        ("XLMForSequenceClassification", True, False),  # maps on request only
        ("DebertaV2ForSequenceClassification", True, False),
        ("T5ForSequenceClassification", True, False),  # second is the position bias
        ("SwinForImageClassification", True, False),  # recorded by stage
        ("DebertaForSequenceClassification", False, False),  # fused, head by head
        ("GPTNeoXForSequenceClassification", False, True),
        ("Phi3ForSequenceClassification", False, True),
        ("GPTBigCodeForSequenceClassification", False, True),
    ],
)
def test_architectures(name, projections, maps):
    layer = last(build(architecture(name)))
    assert (bool(layer.projections), layer.records_maps) == (projections, maps)
    assert (layer.fused is None) == projections
    if projections:
        assert layer.heads and layer.head_width


def test_self_attention_comes_before_cross_attention():
    assert last(build(architecture("BartForSequenceClassification"))).name.endswith("self_attn")


def test_a_layer_may_be_named_itself():
    model = tiny_bert()
    name = "bert.encoder.layer.1.attention.self"
    assert attention_layer(model, name) == attention_layer(model, "bert.encoder.layer.1")
    assert attention_layer(tiny_vit(), "vit.layers.0.attention").name == "vit.layers.0.attention"


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_implementation(implementation):
    model = tiny_llama()
    model.set_attn_implementation(implementation)
    assert last(model).implementation == implementation


def test_no_attention_is_an_error():
    model = tiny_resnet()
    with pytest.raises(ValueError, match=r"ResNetBasicLayer.* has no attention.*nothing.*AttentionTransfer"):
        last(model)
    with pytest.raises(ValueError, match="has no attention"):  # a state-space layer has an `in_proj`, too
        last(build(architecture("ZambaForSequenceClassification")))
