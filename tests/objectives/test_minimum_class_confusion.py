"""MCC: the constants, the rows it reads, and batches on which the field's code has 0 / 0."""

from __future__ import annotations

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_transfer import ConditionalAdversarial, MinimumClassConfusion, TransferBatch, attach
from tests.models import batch_for, bert_config, lora, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit


def batch(logits, labels=None, **fields) -> TransferBatch:
    labels = torch.full((len(logits),), -100) if labels is None else torch.tensor(labels)
    return TransferBatch(features=torch.zeros(*logits.shape[:-1], 2), logits=logits, labels=labels, **fields)


def by_the_matrix(logits, temperature) -> float:
    """The formula in matrices, rows chosen beforehand."""
    p = (logits / temperature).softmax(-1)
    weights = 1 + torch.exp((p * p.log()).sum(-1))
    weights = weights / weights.mean()
    correlation = p.mT @ torch.diag(weights) @ p
    correlation = correlation / correlation.sum(1, keepdim=True)
    return ((correlation.sum() - correlation.trace()) / p.shape[1]).item()


def random_logits(rows=6, classes=4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return 3 * torch.randn(rows, classes, dtype=torch.float64, generator=generator)


def test_the_constants_of_the_paper():
    assert MinimumClassConfusion().config() == {"temperature": 2.5, "weight": 1.0}


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_value_is_that_of_the_unlabelled_rows(temperature):
    logits = random_logits().requires_grad_()
    value = MinimumClassConfusion(temperature=temperature)(batch(logits, [1, -100, -100, 0, -100, -100]))
    expected = by_the_matrix(logits.detach()[[1, 2, 4, 5]], temperature)
    assert value.item() == pytest.approx(expected, rel=1e-10)
    value.backward()
    assert not logits.grad[[0, 3]].any() and logits.grad[[1, 2, 4, 5]].any(1).all()


def test_tokens_are_rows():
    logits = random_logits(12).reshape(3, 4, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
    value = MinimumClassConfusion()(batch(logits, [[-100] * 4] * 3, attention_mask=mask))
    assert value.item() == pytest.approx(by_the_matrix(logits[mask.bool()], 2.5), rel=1e-10)


def test_a_step_parts_two_confused_classes():
    logits = torch.tensor([[3.0, 2.8, 0.0], [2.8, 3.0, 0.0], [0.0, 0.0, 4.0]], requires_grad=True)
    MinimumClassConfusion(temperature=0.5)(batch(logits)).backward()
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1] and logits.grad[1, 1] < 0 < logits.grad[1, 0]
    assert logits.grad[:2].abs().max() > logits.grad[2].abs().max()


@pytest.mark.parametrize("classes", [3, 100])
def test_classes_that_no_row_predicts_are_no_zero_by_zero(classes):
    logits = (1e4 * torch.eye(classes)[[0, 1]]).requires_grad_()
    value = MinimumClassConfusion()(batch(logits))
    assert value.item() == pytest.approx((classes - 2) / classes)
    value.backward()
    assert logits.grad.isfinite().all()


def test_without_an_unlabelled_row_it_is_an_exact_zero_with_a_graph():
    logits = random_logits(3).requires_grad_()
    value = MinimumClassConfusion()(batch(logits, [0, 1, 2]))
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_one_row_is_finite():
    logits = random_logits(1).requires_grad_()
    value = MinimumClassConfusion()(batch(logits))
    value.backward()
    assert 0 < value < 1 and logits.grad.isfinite().all()


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet, tiny_token_bert])
def test_training_lowers_it_in_any_model(make):
    model = make().train()
    attachment = attach(model, [MinimumClassConfusion(temperature=0.5)])
    inputs = {**batch_for(model), "labels": torch.full_like(batch_for(model)["labels"], -100)}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = []
    for _ in range(15):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
        seen.append(attachment.terms["minimum_class_confusion"].item())
    assert min(seen[-3:]) < seen[0]


def test_under_lora_beside_an_adversary():
    model = lora(tiny_bert(), ["query"], "classifier").train()
    attachment = attach(model, [MinimumClassConfusion(), ConditionalAdversarial(hidden_size=8)])
    inputs = batch_for(model)
    inputs["labels"][1::2] = -100
    assert model(**inputs).loss.isfinite() and len(attachment.terms) == 3
    names, _ = attachment.drain()
    assert {"minimum_class_confusion_entropy", "minimum_class_confusion_diversity"} <= set(names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 1}, "MinimumClassConfusion on a regression"),
        ({"problem_type": "multi_label_classification"}, "MinimumClassConfusion on a model with several labels"),
    ],
)
def test_models_without_one_distribution_over_classes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attach(BertForSequenceClassification(bert_config(**options)), [MinimumClassConfusion()])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_no_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match=r"`temperature=.*` does not soften.*paper's 2.5"):
        MinimumClassConfusion(temperature=temperature)
