"""Supervised contrastive fine-tuning: rows, tokens, projection, and what it cannot compare."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer import DomainAdversarial, ModelSpec, TransferBatch, attach
from hf_transfer.objectives.regularization.r_drop import RDrop
from hf_transfer.objectives.regularization.supervised_contrastive import SupervisedContrastive
from tests.models import batch_for, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit


def built(**options) -> SupervisedContrastive:
    torch.manual_seed(0)
    return SupervisedContrastive(**options).build(ModelSpec(feature_dim=4, num_labels=3)).double()


def batch(labels, shape=None) -> TransferBatch:
    labels = torch.tensor(labels)
    generator = torch.Generator().manual_seed(8)
    features = torch.randn(*labels.shape, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    return TransferBatch(features=features, labels=labels)


def naive(rows, labels, temperature) -> float:
    rows = [torch.tensor(row, dtype=torch.float64) for row in rows]
    kept = [n for n, y in enumerate(labels) if y != -100]
    total = 0.0
    for i in kept:
        scores = {j: math.exp(torch.cosine_similarity(rows[i], rows[j], 0) / temperature) for j in kept if j != i}
        positives = [scores[j] for j in scores if labels[j] == labels[i]]
        if positives:
            total -= sum(math.log(p / sum(scores.values())) for p in positives) / len(positives)
    return total / len(kept)


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 2, 0], [0, -100, 0, 1, -100, 1]])
@pytest.mark.parametrize("temperature", [0.1, 0.3])
def test_value_against_a_loop(labels, temperature):
    data = batch(labels)
    expected = naive(data.features.tolist(), labels, temperature)
    assert built(temperature=temperature)(data).item() == pytest.approx(expected, rel=1e-9)


def test_every_labelled_token_is_a_row():
    data = batch([[0, 1, -100], [1, 0, 2], [0, -100, -100]])
    expected = naive(data.features.flatten(0, 1).tolist(), data.labels.flatten().tolist(), 0.3)
    assert built()(data).item() == pytest.approx(expected, rel=1e-9)


def test_projection_has_one_hidden_layer_and_learns():
    objective, data = built(projection=3), batch([0, 1, 0, 1])
    first, _, second = objective.projector
    hidden = (data.features.detach() @ first.weight.mT + first.bias).clamp(min=0)
    rows = hidden @ second.weight.mT + second.bias
    assert objective(data).item() == pytest.approx(naive(rows.tolist(), data.labels.tolist(), 0.3), rel=1e-9)
    objective(data).backward()
    assert all(p.grad.abs().sum() > 0 for p in (*objective.parameters(), data.features))


def test_descent_gathers_the_classes():
    data = batch([0, 0, 1, 1, 2, 2])
    features, objective = data.features, built()
    start = objective(data).item()
    for _ in range(2000):
        (gradient,) = torch.autograd.grad(objective(TransferBatch(features=features, labels=data.labels)), features)
        features = (features - 0.5 * gradient).detach().requires_grad_()
    end = objective(TransferBatch(features=features, labels=data.labels)).item()
    # the best: equal rows within a class, three classes at 120 degrees
    best = math.log(1 + 4 * math.exp(-1.5 / 0.3))
    assert best - 1e-9 <= end < best + 0.01 < start
    cosine = torch.nn.functional.normalize(features, dim=-1) @ torch.nn.functional.normalize(features, dim=-1).mT
    assert cosine[0, 1] > 0.99 and cosine[0, 2] < -0.4


@pytest.mark.parametrize("labels", [[-100, -100, -100], [0, -100, -100], [0, 1, 2], [0]])
@pytest.mark.parametrize("projection", [None, 3])
def test_nothing_to_compare_is_an_exact_zero_with_a_graph(labels, projection):
    objective, data = built(projection=projection), batch(labels)
    value = objective(data)
    assert value.item() == 0
    value.backward()
    assert not data.features.grad.any()
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())


def test_one_class_has_no_negatives_and_stays_finite():
    data = batch([1, 1, 1, 1])
    value = built()(data)
    value.backward()
    assert value.item() == pytest.approx(naive(data.features.tolist(), [1] * 4, 0.3)) and value >= math.log(3)
    assert data.features.grad.isfinite().all()


@pytest.mark.parametrize("make", [tiny_bert, tiny_token_bert, tiny_llama, tiny_vit, tiny_resnet])
@pytest.mark.parametrize("projection", [None, 8])
def test_in_models(make, projection):
    model = make().train()
    attachment = attach(model, [SupervisedContrastive(projection=projection)])
    model(**batch_for(model, 8)).loss.backward()
    assert attachment.terms["supervised_contrastive"] > 0
    assert all(p.grad is not None for p in attachment.objectives.parameters())


def test_under_lora_in_bfloat16():
    model = lora(tiny_bert(), ["query"], "classifier").train().bfloat16()
    attachment = attach(model, [SupervisedContrastive(projection=4)])
    model(**batch_for(model, 8)).loss.backward()
    assert attachment.terms["supervised_contrastive"].dtype == torch.float32


def test_the_second_pass_of_r_drop_is_a_positive():
    model = tiny_bert().train()
    attachment = attach(model, [RDrop(), SupervisedContrastive()])
    inputs = {**batch_for(model, 3), "labels": torch.tensor([0, 1, 2])}
    model(**inputs)
    assert attachment.terms["supervised_contrastive"] > 0


def test_beside_an_adversary_the_unlabelled_domain_is_left_out():
    model = tiny_bert().train()
    attachment = attach(model, [SupervisedContrastive(), DomainAdversarial(hidden_size=8)])
    inputs = {**batch_for(model), "labels": torch.tensor([0, -100, 0, -100])}
    model(**inputs).loss.backward()
    assert attachment.terms["supervised_contrastive"].item() == 0  # a pair, and nothing to tell it from
    assert attachment.terms["domain_adversarial"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "`temperature=0.0`: similarities are divided by it.*default 0.3"),
        ({"projection": 0}, "`projection=0` leaves no dimension.*128, or None"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        SupervisedContrastive(**options)


@pytest.mark.parametrize(
    ("config", "seen"),
    [
        ({"problem_type": "multi_label_classification"}, "several labels a row"),
        ({"problem_type": "regression"}, "a regression"),
        ({"num_labels": 1}, "a regression"),
    ],
)
def test_other_problems_are_refused_when_attached(config, seen):
    with pytest.raises(ValueError, match=f"SupervisedContrastive on {seen}: it pulls rows.*one class a row"):
        attach(tiny_bert(**config), [SupervisedContrastive()])


def test_several_labels_a_row_are_refused_at_the_first_batch():
    model = tiny_bert().train()
    attach(model, [SupervisedContrastive()])
    with pytest.raises(ValueError, match=r"SupervisedContrastive on labels of shape \(4, 3\) and type torch.float32"):
        model(**{**batch_for(model), "labels": torch.ones(4, 3)})
