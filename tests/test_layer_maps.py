"""Layer maps against the formula, by list, by stage, for layers that are shared, and every refusal."""

from __future__ import annotations

import math

import pytest
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    BertModel,
)

from hf_transfer.anatomy import anatomy
from hf_transfer.base_model import base_anatomy
from hf_transfer.layer_maps import RULES, layer_map
from tests.architectures import architecture, build
from tests.models import bert_config, lora, tiny_bert, tiny_resnet, tiny_vit


def bert(depth):
    return anatomy(tiny_bert(num_hidden_layers=depth))


def numbers(student, teacher, rule="uniform"):
    """The map as numbers of blocks, counted from 1 as hidden states are."""
    pairs = layer_map(student, teacher, rule)
    return {student.blocks.index(own) + 1: teacher.blocks.index(other) + 1 for own, other in pairs.items()}


@pytest.mark.parametrize(("own", "others"), [(1, 1), (1, 5), (2, 6), (3, 6), (3, 12), (4, 12), (4, 6), (5, 7), (6, 6)])
def test_uniform_maps_hidden_state_i_to_i_times_the_ratio(own, others):
    expected = {i: math.ceil(i * others / own) for i in range(1, own + 1)}
    assert numbers(bert(own), bert(others)) == expected
    assert expected[own] == others and len(set(expected.values())) == own


def test_uniform_of_the_paper():
    assert numbers(bert(4), bert(12)) == {1: 3, 2: 6, 3: 9, 4: 12}


@pytest.mark.parametrize(("own", "others"), [(4, 2), (6, 4), (5, 1), (7, 3)])
def test_a_deeper_student_has_a_pair_for_each_block_of_the_teacher(own, others):
    found = numbers(bert(own), bert(others))
    assert found == {math.ceil(j * own / others): j for j in range(1, others + 1)}
    assert list(found) == sorted(found) and found[own] == others


def test_the_named_rules():
    student, teacher = bert(3), bert(8)
    assert numbers(student, teacher, "last") == {3: 8}
    assert numbers(student, teacher, "first") == {1: 1, 2: 2, 3: 3}
    assert numbers(teacher, student, "first") == {1: 1, 2: 2, 3: 3}
    assert numbers(bert(6), bert(12), "skip") == {1: 2, 2: 4, 3: 6, 4: 8, 5: 10}  # PKD-Skip
    assert numbers(bert(6), bert(12), "before_last") == {1: 7, 2: 8, 3: 9, 4: 10, 5: 11}  # PKD-Last
    assert numbers(bert(4), bert(3), "before_last") == {2: 1, 3: 2}
    assert numbers(bert(4), bert(2), "skip") == {2: 1}


def test_stages_of_one_list_are_four_even_pieces():
    assert numbers(bert(6), bert(12), "stages") == {2: 3, 3: 6, 5: 9, 6: 12}
    assert numbers(bert(2), bert(12), "stages") == {1: 6, 2: 12}


def test_stages_of_convolutional_networks_are_their_lists():
    student, teacher = anatomy(tiny_resnet()), anatomy(tiny_resnet(depths=[2, 3]))
    assert layer_map(student, teacher, "stages") == {
        "resnet.encoder.stages.0.layers.0": "resnet.encoder.stages.0.layers.1",
        "resnet.encoder.stages.1.layers.1": "resnet.encoder.stages.1.layers.2",
    }
    deeper = anatomy(tiny_resnet(hidden_sizes=[8, 8, 16], depths=[1, 2, 1]))
    assert list(layer_map(deeper, student, "stages")) == [
        "resnet.encoder.stages.1.layers.1",
        "resnet.encoder.stages.2.layers.0",
    ]


def test_stages_against_a_model_of_one_list():
    pairs = layer_map(
        anatomy(tiny_resnet()),
        anatomy(build(architecture("ViTForImageClassification"), num_hidden_layers=6)),
        "stages",
    )
    assert [other.rpartition(".")[2] for other in pairs.values()] == ["2", "5"]
    assert len(layer_map(anatomy(tiny_vit()), anatomy(tiny_resnet()), "stages")) == 2


def test_uniform_keeps_to_the_lists_where_both_models_have_as_many():
    student, teacher = anatomy(tiny_resnet(depths=[1, 1])), anatomy(tiny_resnet(depths=[1, 4]))
    assert list(layer_map(student, teacher).values()) == [
        "resnet.encoder.stages.0.layers.0",
        "resnet.encoder.stages.1.layers.3",
    ]

    def bart(encoder, decoder):
        sizes = {"d_model": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 9}
        layers = {"encoder_layers": encoder, "decoder_layers": decoder, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
        return anatomy(BartForSequenceClassification(BartConfig(**sizes, **layers, max_position_embeddings=8)))

    pairs = layer_map(bart(2, 1), bart(6, 2))
    assert list(pairs.values()) == ["model.encoder.layers.2", "model.encoder.layers.5", "model.decoder.layers.1"]
    assert all(own.split(".")[1] == other.split(".")[1] for own, other in pairs.items())


def test_a_shared_layer_is_one_block_whose_last_run_is_read():
    config = AlbertConfig(
        vocab_size=9, embedding_size=8, hidden_size=8, num_hidden_layers=6, num_attention_heads=2, intermediate_size=8
    )
    albert = anatomy(AlbertForSequenceClassification(config))
    assert len(albert.blocks) == 1
    assert numbers(albert, bert(4)) == {1: 4}
    assert numbers(bert(4), albert) == {4: 1}
    with pytest.raises(ValueError, match='layers="skip" leaves out the last.*1 in the student.*no pair.*"last"'):
        layer_map(albert, bert(4), "skip")


def test_pairs_by_number_and_by_name():
    student, teacher = bert(3), bert(6)
    assert numbers(student, teacher, {0: 2, -1: -1}) == {1: 3, 3: 6}
    assert numbers(student, teacher, {"0": "2", "-1": "-2"}) == {1: 3, 3: 5}  # as JSON has it
    names = {"bert.encoder.layer.0": "bert.encoder.layer.4"}
    assert layer_map(student, teacher, names) == names
    inner = {"bert.encoder.layer.0.attention": "bert.encoder"}  # below a block, and above all of them
    assert layer_map(student, teacher, inner) == inner
    assert layer_map(student, teacher, {"bert.embeddings": "bert.embeddings"})


def test_models_without_a_head_and_under_peft():
    teacher = base_anatomy(BertModel(bert_config(num_hidden_layers=6)))
    student = anatomy(lora(tiny_bert(), ["query"], head="classifier"))
    assert layer_map(student, teacher)["base_model.model.bert.encoder.layer.0"] == "encoder.layer.1"
    assert layer_map(student, teacher, {0: "encoder.layer.3"})


def test_a_teacher_that_is_stored_only():
    assert layer_map(bert(2), None, {1: "encoder.layer.5"}) == {"bert.encoder.layer.1": "encoder.layer.5"}
    with pytest.raises(ValueError, match="only stored outputs are left.*unknown.*Give the pairs"):
        layer_map(bert(2), None, "uniform")


@pytest.mark.parametrize(("pairs", "whose"), [({3: 0}, "student"), ({-4: 0}, "student"), ({0: 6}, "teacher")])
def test_numbers_out_of_range_are_refused(pairs, whose):
    with pytest.raises(ValueError, match=f"block -?[0-9]+ of the {whose}, which has [36].*no such hidden state.*Give"):
        layer_map(bert(3), bert(6), pairs)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no module of the teacher.*Give a name.*bert.encoder.layer.1"):
        layer_map(bert(3), bert(6), {0: "bert.encoder.layer.11"})
    with pytest.raises(ValueError, match='names "encoder.layers.0", which is no module of the student'):
        layer_map(bert(3), bert(6), {"encoder.layers.0": 0})


def test_what_is_no_map_is_refused():
    with pytest.raises(ValueError, match='layers="middle" is no layer map.*uniform.*pairs themselves'):
        layer_map(bert(3), bert(6), "middle")
    with pytest.raises(ValueError, match="layers={} holds no pair.*nothing to learn.*Give pairs"):
        layer_map(bert(3), bert(6), {})
    with pytest.raises(TypeError, match=r"layers=\[0, 1\] is a list.*not said.*Give pairs"):
        layer_map(bert(3), bert(6), [0, 1])


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "skip"])
@pytest.mark.parametrize(
    "names",
    [
        ("DistilBertForSequenceClassification", "BertForSequenceClassification"),
        ("MobileNetV1ForImageClassification", "MobileNetV2ForImageClassification"),
        ("ViTForImageClassification", "SwinForImageClassification"),
        ("ResNetForImageClassification", "ConvNextForImageClassification"),
        ("LlamaForSequenceClassification", "GPT2ForSequenceClassification"),
    ],
)
def test_across_architectures_every_rule_gives_ordered_pairs(names, rule):
    student, teacher = (anatomy(build(architecture(name))) for name in names)
    pairs = layer_map(student, teacher, rule)
    for blocks, chosen in ((student.blocks, list(pairs)), (teacher.blocks, list(pairs.values()))):
        places = [blocks.index(name) for name in chosen]
        assert places and places == sorted(set(places))
