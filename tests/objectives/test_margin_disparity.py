"""MDD against the formula written out, its players, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer import MarginDisparity, ModelSpec, TransferBatch, attach
from hf_transfer.schedules import evaluate
from tests.models import batch_for, tiny_bert, tiny_token_bert


def built(**options) -> MarginDisparity:
    torch.manual_seed(0)
    options = {"hidden_size": 8, "strength": 1.0, **options}
    return MarginDisparity(**options).build(ModelSpec(feature_dim=4, num_labels=3)).double()


def batch(labels=(0, -100, 2, -100, -100), **options):
    generator = torch.Generator().manual_seed(0)
    return TransferBatch(
        features=torch.randn(len(labels), 4, dtype=torch.float64, generator=generator, requires_grad=True),
        logits=torch.randn(len(labels), 3, dtype=torch.float64, generator=generator),
        labels=torch.tensor(labels),
        **options,
    )


def softmax(row):
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize("margin", [1.0, 4.0])
def test_value_against_the_formula(margin):
    objective, data = built(margin=margin), batch()
    agree, disagree = [], []
    for f, z, label in zip(data.features.detach(), data.logits.tolist(), data.labels.tolist(), strict=True):
        predicted = z.index(max(z))  # of the model, also where there is a label
        p = softmax(objective.classifier(f).tolist())[predicted]
        if label >= 0:
            agree.append(-math.log(p))
        else:
            disagree.append(-math.log(1 - p))
    expected = margin * sum(agree) / 2 + sum(disagree) / 3
    assert objective(data).item() == pytest.approx(expected, rel=1e-10)


def test_the_adversary_descends_and_the_features_ascend():
    objective, data = built(), batch()
    before = objective(data)
    before.backward()
    uphill = batch()
    with torch.no_grad():
        uphill.features.copy_(data.features - 0.05 * data.features.grad)
    assert objective(uphill) > before
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter -= 0.05 * parameter.grad
    assert objective(data) < before


def test_the_head_of_the_model_is_no_player():
    """Pseudo-labels carry no gradient; the head learns from the task loss alone."""
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    inputs = {**batch_for(model), "labels": torch.tensor([0, -100, 1, -100])}
    gradients = []
    for weight in (0.0, 1.0):
        model.zero_grad()
        with attach(model, [MarginDisparity(hidden_size=8, strength=1.0, weight=weight)]):
            model(**inputs).loss.backward()
        gradients.append((model.classifier.weight.grad, model.bert.pooler.dense.weight.grad))
    (head_without, body_without), (head_with, body_with) = gradients
    assert torch.equal(head_without, head_with) and not torch.equal(body_without, body_with)


def test_default_strength_is_that_of_the_paper():
    strength = MarginDisparity().strength
    assert float(evaluate(strength, 0.0)) == 0
    assert float(evaluate(strength, 0.1)) == pytest.approx(0.1 * (2 / (1 + math.exp(-1)) - 1))
    assert float(evaluate(strength, 1.0)) == pytest.approx(0.1, rel=1e-3)
    assert MarginDisparity().margin == 4.0


def test_huge_logits_of_the_adversary():
    objective, data = built(), batch()
    with torch.no_grad():
        objective.classifier[-1].weight.mul_(1e4)
    objective.float()
    data = TransferBatch(
        features=data.features.detach().float().requires_grad_(), logits=data.logits.float(), labels=data.labels
    )
    value = objective(data)
    value.backward()
    assert value.isfinite() and value > 100
    assert data.features.grad.isfinite().all() and data.features.grad.any()


@pytest.mark.parametrize("labels", [(0, 1, 2), (-100, -100), (1,), (-100,)])
def test_one_side_alone_is_an_exact_zero(labels):
    objective, data = built(), batch(labels)
    value = objective(data)
    value.backward()
    assert value.item() == 0 and not data.features.grad.any()
    assert all(not p.grad.any() for p in objective.parameters())


def test_disparity_of_what_it_reports():
    objective, data = built(), batch(labels=(0, -100, 2, -100, -100))
    with torch.no_grad():
        objective.classifier[-1].weight.zero_()
        objective.classifier[-1].bias.copy_(torch.tensor([9.0, 0.0, 0.0]))  # always the first class
    first = data.logits.argmax(-1) == 0
    objective(data)
    source, target = torch.tensor([0, 2]), torch.tensor([1, 3, 4])
    expected = (~first[target]).double().mean() - (~first[source]).double().mean()
    assert objective.diagnostics["disparity"].item() == pytest.approx(expected.item())


def test_tokens_are_rows():
    model = tiny_token_bert().train()
    attachment = attach(model, [MarginDisparity(hidden_size=8)])
    batch = batch_for(model)
    batch["labels"][1::2] = -100
    model(**batch).loss.backward()
    assert attachment.terms["margin_disparity"] > 0
    batch["labels"][:] = -100
    model(**batch)
    assert attachment.terms["margin_disparity"] == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"num_labels": 1}, "MarginDisparity on a regression"),
        ({"problem_type": "multi_label_classification"}, "MarginDisparity on a model with several labels a row"),
    ],
)
def test_models_without_a_softmax_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        attach(tiny_bert(**model), [MarginDisparity()])


@pytest.mark.parametrize("margin", [0.0, -1.0])
def test_margin_must_be_positive(margin):
    with pytest.raises(ValueError, match=f"`margin={margin}`: nothing would hold.*above 0, such as the paper's 4"):
        MarginDisparity(margin=margin)
