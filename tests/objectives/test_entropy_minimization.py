"""Entropy minimisation: which rows it reads, that it sharpens them, and that the log shows a collapse."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_transfer import DomainAdversarial, EntropyMinimization, TransferBatch, attach
from tests.models import batch_for, bert_config, lora, tiny_bert, tiny_gpt2, tiny_resnet, tiny_token_bert, tiny_vit


def batch(logits, labels) -> TransferBatch:
    return TransferBatch(features=torch.zeros(len(labels), 2), logits=logits, labels=torch.tensor(labels))


def half_labelled(model, rows=4) -> dict[str, torch.Tensor]:
    inputs = batch_for(model, rows)
    inputs["labels"][inputs["domain"] == 1] = -100
    return inputs


def test_the_defaults():
    assert EntropyMinimization().config() == {"weight": 0.1}


def test_value_is_the_mean_over_the_unlabelled_rows():
    logits = torch.tensor([[3.0, 0.0], [0.0, 0.0], [math.log(3), 0.0]], requires_grad=True)
    value = EntropyMinimization()(batch(logits, [0, -100, -100]))
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert value.item() == pytest.approx((math.log(2) + quarter) / 2, rel=1e-6)
    value.backward()
    assert not logits.grad[0].any() and logits.grad[2].any()


def test_a_step_sharpens_what_the_model_prefers():
    logits = torch.tensor([[0.5, 0.0, -0.5]], requires_grad=True)
    EntropyMinimization()(batch(logits, [-100])).backward()
    assert logits.grad[0, 0] < 0 < logits.grad[0, 2]


def test_without_an_unlabelled_row_it_is_an_exact_zero_with_a_graph():
    logits = torch.randn(3, 2, requires_grad=True)
    value = EntropyMinimization()(batch(logits, [0, 1, 0]))
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros(3, 2))


def test_the_log_tells_certain_from_collapsed():
    objective = EntropyMinimization()
    for rows, diversity in (([0, 0, 0], 0.0), ([0, 1, 2], math.log(3))):
        value = objective(batch(1e4 * torch.eye(3)[rows], [-100] * 3))
        assert value.item() == 0
        assert objective.diagnostics["diversity"].item() == pytest.approx(diversity)


def test_tokens_of_padding_and_of_labelled_rows_are_left_out():
    logits = torch.randn(3, 4, 5, dtype=torch.float64)
    labels = torch.full((3, 4), -100)
    labels[0, 1] = 2  # its other tokens are parts of words and the like, not unlabelled
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
    data = TransferBatch(features=torch.zeros(3, 4, 2), logits=logits, labels=labels, attention_mask=mask)
    kept = torch.cat([logits[1, :2], logits[2]])
    p = kept.softmax(-1)
    assert EntropyMinimization()(data).item() == pytest.approx(-(p * p.log()).sum(-1).mean().item(), rel=1e-9)


@pytest.mark.parametrize("make", [tiny_bert, tiny_gpt2, tiny_vit, tiny_resnet, tiny_token_bert])
def test_training_lowers_it_in_any_model(make):
    model = make().train()
    attachment = attach(model, [EntropyMinimization(weight=1.0)])
    inputs = {**batch_for(model), "labels": torch.full_like(batch_for(model)["labels"], -100)}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = []
    for _ in range(12):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
        seen.append(attachment.terms["entropy_minimization"].item())
    assert seen[-1] < seen[0] - 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_lora(dtype):
    model = lora(tiny_bert(), ["query"], "classifier").train().to(dtype)
    attachment = attach(model, [EntropyMinimization()])
    model(**half_labelled(model)).loss.backward()
    term = attachment.terms["entropy_minimization"]
    assert term.dtype == torch.float32 and 0 < term <= math.log(3) + 1e-2


def test_beside_an_adversary_and_in_the_log():
    model = tiny_bert().train()
    attachment = attach(model, [EntropyMinimization(), DomainAdversarial(hidden_size=8)])
    model(**half_labelled(model)).loss.backward()
    names, means = attachment.drain()
    assert {"loss_entropy_minimization", "entropy_minimization_diversity"} <= set(names) and means.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 1}, "EntropyMinimization on a regression"),
        ({"problem_type": "multi_label_classification"}, "EntropyMinimization on a model with several labels a row"),
    ],
)
def test_models_without_one_distribution_over_classes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attach(BertForSequenceClassification(bert_config(**options)), [EntropyMinimization()])
