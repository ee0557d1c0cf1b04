"""The heads of tasks: their widths, what they read, and which tasks a kind of model cannot have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_transfer import ModelSpec, anatomy
from hf_transfer._heads import output_width
from hf_transfer.multitask.heads import TaskHeads, token_states
from hf_transfer.multitask.task import Task
from tests.models import lora, tiny_bert, tiny_gpt2, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit


TOPIC, STARS, TAGS = Task("topic", num_labels=4), Task("stars", "regression"), Task("tags", "tokens", num_labels=5)


def spec_of(model: nn.Module) -> ModelSpec:
    parts = anatomy(model)
    return ModelSpec(parts.feature_dim, output_width(model, parts.head), model, parts)


@pytest.mark.parametrize("make", [tiny_bert, tiny_gpt2, tiny_llama, tiny_vit, tiny_resnet])
def test_heads_have_the_width_of_the_features_and_a_bias_where_the_model_has_one(make):
    spec = spec_of(make())
    heads = TaskHeads([TOPIC, STARS], spec)
    assert spec.model is not None and spec.anatomy is not None
    own = spec.model.get_submodule(spec.anatomy.head)
    has_bias = any(name.endswith("bias") for name, _ in own.named_parameters())
    for task in (TOPIC, STARS):
        head = heads[task.name]
        assert isinstance(head, nn.Linear) and head.weight.shape == (task.num_labels, spec.feature_dim)
        assert (head.bias is not None) == has_bias and head.weight.std() > 0
    assert heads.states == "" and not heads.of_tokens


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: lora(model, ["query"], "classifier")])
def test_a_task_of_tokens_reads_the_output_of_the_base_model(wrap):
    model = wrap(tiny_bert())
    heads = TaskHeads([TOPIC, TAGS], spec_of(model))
    name = heads.states
    assert name.endswith("bert") and token_states(model) == name
    states, features = torch.randn(2, 6, 16), torch.randn(2, 16)
    seen = heads.read(TAGS, features, {name: states.bfloat16()})
    assert seen.dtype == torch.float32 and heads.logits(TAGS, seen).shape == (2, 6, 5)
    assert heads.read(TOPIC, features, {}) is features and heads.logits(TOPIC, features).shape == (2, 4)


def test_of_a_token_model_they_read_the_features():
    heads = TaskHeads([TAGS], spec_of(tiny_token_bert()))
    features = torch.randn(2, 6, 16)
    assert heads.of_tokens and heads.states == "" and heads.read(TAGS, features, {}) is features


def test_a_token_model_has_no_features_of_rows():
    with pytest.raises(ValueError, match="`topic` is a classification.*features of tokens.*ForSequenceClassification"):
        TaskHeads([TAGS, TOPIC], spec_of(tiny_token_bert()))


def test_a_model_that_does_not_name_its_base_is_refused():
    with pytest.raises(ValueError, match="does not name its base model.*ForTokenClassification"):
        token_states(nn.Linear(2, 2))
