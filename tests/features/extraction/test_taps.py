from __future__ import annotations

import pytest
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertModel,
    LlamaForCausalLM,
    XLMConfig,
    XLMForSequenceClassification,
)

from hf_transfer.features.extraction.taps import Tap, block_outputs, find_taps, head_modules, is_base, pretrained
from tests.models import TINY, bert_config, lora, tiny_bert, tiny_llama, tiny_resnet


LAYER = "bert.encoder.layer"


def test_the_head_is_the_default():
    assert find_taps(tiny_bert(), "head") == [Tap("features", "head", "classifier", None)]
    assert find_taps(BertModel(bert_config()), "head", "mean") == [Tap("features", "output", "", "mean")]


@pytest.mark.parametrize("tap", [1, "block.1", "1", -2, "-2", "block.-2"])
def test_names_of_one_block(tap):
    assert find_taps(tiny_bert(), tap) == [Tap("block.1", "block", f"{LAYER}.1", "mean")]


def test_all_blocks_and_no_tap_twice():
    found = find_taps(tiny_bert(), ["head", 2, "blocks", -1], "cls")
    assert [tap.column for tap in found] == ["features", "block.2", "block.0", "block.1"]
    assert {tap.pooling for tap in found} == {None, "cls"}  # the head beside blocks keeps its own


@pytest.mark.parametrize("kind", TINY)
def test_every_model_has_as_many_blocks_as_its_anatomy(kind):
    from hf_transfer.anatomy import anatomy

    model = TINY[kind]()
    assert tuple(block_outputs(model)) == anatomy(model).blocks
    assert head_modules(model) == [anatomy(model).head]


def test_a_block_spread_over_lists_is_read_where_it_ends():
    config = XLMConfig(vocab_size=9, emb_dim=8, n_layers=2, n_heads=2)
    assert block_outputs(XLMForSequenceClassification(config)) == [f"transformer.layer_norm2.{n}" for n in range(2)]


def test_a_layer_that_runs_repeatedly_is_one_block():
    config = AlbertConfig(vocab_size=9, embedding_size=4, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    assert len(find_taps(AlbertForSequenceClassification(config), "blocks")) == 1


def test_under_lora():
    model = lora(tiny_bert(), ["query"], "classifier")
    (head, block) = find_taps(model, ["head", 0])
    assert head.module == "base_model.model.classifier"
    assert block.module == "base_model.model.bert.encoder.layer.0"
    assert type(pretrained(model)).__name__ == "BertForSequenceClassification" and not is_base(model)
    assert all("classifier" in name for name in head_modules(model))


def test_what_is_a_base_model():
    assert is_base(BertModel(bert_config())) and is_base(tiny_resnet().resnet)
    assert not is_base(tiny_bert()) and head_modules(BertModel(bert_config())) == []


def test_a_head_by_name():
    model = LlamaForCausalLM(tiny_llama().config)
    for named in ({}, {"head": "lm_head"}):  # the output embeddings of a language model are found without a name
        assert find_taps(model, "head", "last", **named) == [Tap("features", "head", "lm_head", "last")]
    assert head_modules(model, "lm_head") == ["lm_head"]


@pytest.mark.parametrize("tap", ["neck", "block", "bert", True, "block.x", 1.5])
def test_unknown_taps_are_refused(tap):
    with pytest.raises(ValueError, match='There is no tap .*Pass "head", the number of a block'):
        find_taps(tiny_bert(), [tap])


@pytest.mark.parametrize("number", [3, -4, "block.7"])
def test_numbers_out_of_range_are_refused(number):
    with pytest.raises(ValueError, match="has 3 blocks, so there is no block .*from 0 to 2, or from -3 to -1"):
        find_taps(tiny_bert(), number)


def test_no_taps_and_unknown_poolings_are_refused():
    with pytest.raises(ValueError, match=r"taps=\[\] names no place"):
        find_taps(tiny_bert(), [])
    with pytest.raises(ValueError, match='pooling="max" is unknown'):
        find_taps(tiny_bert(), "head", "max")
