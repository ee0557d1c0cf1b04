from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import XLNetConfig, XLNetForSequenceClassification

from hf_transfer.source import Source
from hf_transfer.teacher import Teacher
from hf_transfer.teacher.cache_reader import TeacherReader
from tests.models import batch_for, tiny_bert, tiny_token_bert


def reader_of(model, **options):
    defaults = {"own_inputs": True, "k": None, "features": False, "hidden_states": []}
    return TeacherReader(Teacher(model), torch.device("cpu"), **{**defaults, **options})


def inputs_for(model):
    batch = batch_for(model, 4)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("own_inputs", [True, False])
def test_it_reads_what_an_objective_reads_bit_for_bit(own_inputs):
    model = tiny_bert()
    inputs = inputs_for(model)
    name = "bert.encoder.layer.1"
    read: Any = reader_of(model, own_inputs=own_inputs, features=True, hidden_states=[name]).read(
        inputs, inputs["attention_mask"]
    )
    said = Source(model)(inputs, hidden_states=[name])
    assert torch.equal(read["teacher_logits"], said.logits) and torch.equal(read["teacher_features"], said.features)
    for row, states, kept in zip(
        read[f"teacher_hidden.{name}"], said.hidden_states[name], inputs["attention_mask"].bool(), strict=True
    ):
        assert torch.equal(row, states[kept])


def test_tokens_come_without_padding():
    model = tiny_token_bert()
    inputs = inputs_for(model)
    read: Any = reader_of(model, k=2, features=True).read(inputs, inputs["attention_mask"])
    lengths = inputs["attention_mask"].sum(1).tolist()
    for name in ("teacher_top_values", "teacher_top_indices", "teacher_log_rest", "teacher_features"):
        assert [len(row) for row in read[name]] == lengths, name
    assert read["teacher_classes"].tolist() == [3] * 4


def test_modules_that_return_no_rows():
    config = XLNetConfig(vocab_size=20, d_model=8, n_layer=1, n_head=2, d_inner=8)
    model = XLNetForSequenceClassification(config)
    inputs = {"input_ids": torch.ones(2, 5, dtype=torch.long)}
    with pytest.raises(ValueError, match=r"returns a tensor of shape \(5, 2, 8\) for 2 rows"):
        reader_of(model, hidden_states=["transformer.layer.0"]).read(inputs)
    bert = tiny_bert()
    bert.unused = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="did not pass through `unused`"):
        reader_of(bert, hidden_states=["unused"]).read(inputs_for(bert))


def test_precision():
    assert not reader_of(tiny_bert()).low_precision and reader_of(tiny_bert().bfloat16()).low_precision
