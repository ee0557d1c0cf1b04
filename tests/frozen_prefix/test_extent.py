from __future__ import annotations

import pytest

from hf_transfer.anatomy import anatomy
from hf_transfer.frozen_prefix.extent import frozen_prefix
from tests.models import lora, tiny_bert, tiny_resnet


def frozen(model, *parts):
    names = {name for part in parts for name in anatomy(model).parts()[part]}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in names)
    return model


@pytest.mark.parametrize(
    ("parts", "blocks"),
    [
        (("embeddings", "block.0"), 1),
        (("embeddings", "block.0", "block.1"), 2),
        (("embeddings", "block.0", "block.1", "block.2", "neck", "head"), 3),
        (("embeddings", "block.0", "block.2"), 1),
        (("embeddings", "block.0", "neck"), 1),
    ],
)
def test_as_many_blocks_as_are_frozen_without_a_gap(parts, blocks):
    model = frozen(tiny_bert(), *parts)
    prefix = frozen_prefix(model, anatomy(model))
    assert prefix is not None
    assert prefix.blocks == blocks
    assert prefix.modules == tuple(f"bert.encoder.layer.{number}" for number in range(blocks))
    below = ("bert.embeddings.", *(f"{name}." for name in prefix.modules))
    assert set(prefix.parameters) == {name for name, _ in model.named_parameters() if name.startswith(below)}
    assert set(prefix.everything) == {*prefix.parameters, *prefix.modules, *prefix.embeddings}


@pytest.mark.parametrize("parts", [(), ("embeddings",), ("block.0", "block.1"), ("block.0", "head")])
def test_no_prefix_without_embeddings_and_one_block(parts):
    model = frozen(tiny_bert(), *parts)
    assert frozen_prefix(model, anatomy(model)) is None


def test_one_parameter_that_trains_ends_it():
    model = frozen(tiny_bert(), "embeddings", "block.0", "block.1")
    model.bert.encoder.layer[1].output.LayerNorm.bias.requires_grad_(True)
    prefix = frozen_prefix(model, anatomy(model))
    assert prefix is not None
    assert prefix.blocks == 1


def test_stages_and_stem_of_a_convolutional_network():
    model = frozen(tiny_resnet(), "embeddings", "block.0", "block.1")
    parts = anatomy(model)
    prefix = frozen_prefix(model, parts)
    assert prefix is not None
    assert prefix.embeddings == ("resnet.embedder",)
    assert prefix.modules == tuple(name for part in ("block.0", "block.1") for name in parts.modules(part))


def test_below_the_first_adapter():
    pytest.importorskip("peft")
    model = lora(tiny_bert(), ["query"], "classifier", layers_to_transform=[2], layers_pattern="layer")
    prefix = frozen_prefix(model, anatomy(model))
    assert prefix is not None
    assert prefix.modules == tuple(f"base_model.model.bert.encoder.layer.{number}" for number in (0, 1))
