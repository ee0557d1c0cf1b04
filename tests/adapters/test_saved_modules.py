"""What is saved whole beside an adapter."""

from __future__ import annotations

import pytest
from torch import nn

from hf_transfer import anatomy
from hf_transfer.adapters import saved_modules as module
from hf_transfer.adapters.saved_modules import outermost, saved_modules, statistics, wrapped_modules
from tests.architectures import architecture, build
from tests.models import tiny_bert, tiny_resnet, tiny_wav2vec2


@pytest.fixture
def warned(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(module.logger, "warning", said.append)
    return said


def test_head_blocks_and_what_the_checkpoint_lacks():
    model = tiny_bert()
    found = anatomy(model)
    assert saved_modules(model, found, missing=[]) == ["classifier"]
    assert saved_modules(model, found, missing=["bert.pooler.dense.weight", "bert.pooler.dense.bias"]) == [
        "classifier",
        "bert.pooler.dense",
    ]
    assert saved_modules(model, found, missing=None, train_blocks=2) == [
        "classifier",
        "bert.encoder.layer.1",
        "bert.encoder.layer.2",
        "bert.pooler",
    ]


def test_a_parameter_beside_other_modules_is_left_to_the_checkpoint():
    # wav2vec2's mask embedding stands in the module that holds the whole encoder
    model = tiny_wav2vec2()
    assert saved_modules(model, anatomy(model), missing=["wav2vec2.masked_spec_embed"]) == ["classifier"]


def test_all_layers_with_statistics_but_not_inside_a_saved_block():
    model = tiny_resnet()
    found = anatomy(model)
    norms = [name for name, one in model.named_modules() if isinstance(one, nn.BatchNorm2d)]
    assert statistics(model) == norms
    assert set(saved_modules(model, found, missing=[])) == {*norms, "classifier.1"}
    last = found.blocks[-1]
    saved = saved_modules(model, found, missing=[], train_blocks=1)
    assert last in saved
    assert not any(name.startswith(f"{last}.") for name in saved)


@pytest.mark.parametrize("number", [-1, 4])
def test_more_blocks_than_there_are(number):
    model = tiny_bert()
    with pytest.raises(ValueError, match=rf"train_blocks={number}, but BertForSequenceClassification has 3.*0 to 3"):
        saved_modules(model, anatomy(model), missing=[], train_blocks=number)


def test_the_module_that_peft_saves_of_itself_takes_in_the_head():
    # PEFT saves `classifier` of any text classifier; RoBERTa's head lies inside it
    model = build(architecture("RobertaForSequenceClassification"), num_hidden_layers=1)
    found = anatomy(model)
    saved = saved_modules(model, found, missing=None)
    assert "classifier.out_proj" in saved
    assert wrapped_modules(model, found, saved, "SEQ_CLS") == ["classifier"]
    assert set(wrapped_modules(model, found, saved, None)) == set(saved)


def test_an_end_of_a_name_that_fits_the_backbone_is_told(warned):
    model = tiny_bert()
    found = anatomy(model)
    model.bert.encoder.layer[0].old_classifier = nn.Linear(2, 2)
    assert wrapped_modules(model, found, ["classifier"], None) == ["bert.encoder.layer.0.old_classifier", "classifier"]
    assert "bert.encoder.layer.0.old_classifier will be trained and saved whole too" in warned[0]


def test_an_optional_one_is_rather_left_out(warned):
    model = build(architecture("PoolFormerForImageClassification"))
    found = anatomy(model)
    assert wrapped_modules(model, found, ["classifier", "norm"], None, optional=["norm"]) == ["classifier"]
    assert "norm is neither trained nor saved" in warned[0]


def test_outermost_goes_by_whole_words():
    assert outermost(["a.bc", "a.b", "a.b.c", "a.b"]) == ["a.bc", "a.b"]
