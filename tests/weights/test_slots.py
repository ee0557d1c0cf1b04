"""The tensors of a model under their bare names."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import BertForMaskedLM

from hf_transfer import DomainAdversarial, attach
from hf_transfer.weights.slots import base_of, has_adapters, slots
from tests.models import TINY, bert_config, lora, tiny_bert, tiny_resnet


@pytest.mark.parametrize("make", TINY.values(), ids=TINY)
def test_a_bare_model_has_its_state_dict(make):
    model = make()
    found = slots(model)
    assert list(found) == list(model.state_dict())
    assert {name for name, slot in found.items() if slot.is_parameter} == {
        name for name, _ in model.named_parameters()
    }
    assert not has_adapters(model) and base_of(model) is model


@pytest.mark.parametrize("make", [tiny_bert, tiny_resnet])
def test_under_peft_the_names_are_those_of_the_bare_model(make):
    names = list(slots(make()))
    target = ["query"] if make is tiny_bert else r".*encoder.*convolution"
    for model in (lora(make(), target, "classifier"), lora(make(), target, "classifier", bias="all", use_dora=True)):
        assert sorted(slots(model)) == sorted(names) and has_adapters(model)


def test_adapters_put_into_a_model_without_a_wrapper():
    model = tiny_bert()
    names = sorted(slots(model))
    model.add_adapter(LoraConfig(r=2, target_modules=["query"]))
    assert sorted(slots(model)) == names and has_adapters(model)


def test_prompts_are_adapters_too():
    model = get_peft_model(tiny_bert(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    assert has_adapters(model) and list(slots(model)) == list(slots(model.get_base_model()))


def test_writing_reaches_every_copy():
    model = lora(tiny_bert(), ["query"], "classifier")
    slot = slots(model)["classifier.weight"]
    assert len(slot.tensors) == 2
    slot.write(torch.full(slot.shape, 3.0))
    wrapper = model.get_base_model().classifier
    assert (wrapper.original_module.weight == 3).all() and (wrapper.modules_to_save["default"].weight == 3).all()


def test_tied_tensors_are_one_with_two_names():
    found = slots(BertForMaskedLM(bert_config()))
    slot = found["bert.embeddings.word_embeddings.weight"]
    assert slot.aliases == ["bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"]
    assert "cls.predictions.decoder.weight" not in found


def test_objectives_and_passing_buffers_are_left_out():
    model = tiny_bert()
    names = list(slots(model))
    attach(model, [DomainAdversarial(hidden_size=4)])
    model.register_buffer("passing", torch.ones(1), persistent=False)
    assert list(slots(model)) == names


def test_scalars_and_plain_modules():
    norm = nn.BatchNorm1d(2)
    assert slots(norm)["num_batches_tracked"].shape == () and not slots(norm)["running_mean"].is_parameter
