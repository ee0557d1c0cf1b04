"""Information maximisation: its two parts, their weights, and what entropy alone would do instead."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_transfer import EntropyMinimization, InformationMaximization, TransferBatch, attach
from tests.models import batch_for, bert_config, lora, tiny_bert, tiny_token_bert


def batch(logits, labels=None) -> TransferBatch:
    labels = torch.full((len(logits),), -100) if labels is None else torch.tensor(labels)
    return TransferBatch(features=torch.zeros(len(logits), 2), logits=logits, labels=labels)


def random_logits(rows=6, classes=3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, classes, dtype=torch.float64, generator=generator, requires_grad=True)


def test_the_constants_of_the_paper():
    assert InformationMaximization().config() == {"diversity_weight": 1.0, "weight": 1.0}


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_value_is_entropy_less_diversity_up_to_a_constant(gamma):
    logits = random_logits()
    p = logits.detach().softmax(-1)
    mean = p[1:].mean(0)
    conditional = -(p[1:] * p[1:].log()).sum(-1).mean()
    expected = conditional + gamma * (mean * mean.log()).sum() + gamma * math.log(3)
    objective = InformationMaximization(diversity_weight=gamma)
    value = objective(batch(logits, [0, *[-100] * 5]))
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)
    assert objective.diagnostics["entropy"].item() == pytest.approx(conditional.item())
    assert objective.diagnostics["diversity"].item() == pytest.approx(-(mean * mean.log()).sum().item())


def test_at_weight_one_it_is_what_mutual_information_lacks():
    """I(row; class) = sum of p log(p / mean) over rows and classes, over n."""
    logits = random_logits()
    p = logits.detach().softmax(-1)
    information = (p * (p / p.mean(0)).log()).sum(-1).mean()
    value = InformationMaximization()(batch(logits))
    assert value.item() == pytest.approx(math.log(3) - information.item(), rel=1e-10)


def test_without_diversity_it_is_entropy_minimization():
    logits = random_logits()
    ours = InformationMaximization(diversity_weight=0.0)(batch(logits))
    torch.testing.assert_close(ours, EntropyMinimization()(batch(logits)))


def test_a_collapse_is_left_and_certain_rows_stay():
    """Descent on a shared bias from predictions that lean to one class."""
    logits = torch.tensor([[4.0, 1.0], [4.0, 0.5], [1.0, 2.0], [2.0, 1.5]])
    bias = torch.tensor([3.0, 0.0], requires_grad=True)
    objective = InformationMaximization()
    before = objective(batch(logits + bias)).item()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(objective(batch(logits + bias)), bias)
        bias = (bias - gradient).detach().requires_grad_()
    assert objective(batch(logits + bias)).item() < before - 0.1
    assert (logits + bias).argmax(-1).tolist() == [0, 0, 1, 1]


def test_one_row_has_nothing_to_be_told_apart_from():
    logits = random_logits(1)
    value = InformationMaximization()(batch(logits))
    assert value.item() == pytest.approx(math.log(3))
    value.backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits))


def test_without_an_unlabelled_row_it_is_an_exact_zero_with_a_graph():
    logits = random_logits()
    value = InformationMaximization()(batch(logits, [0, 1, 2, 0, 1, 2]))
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: lora(model, ["query"], "classifier")])
@pytest.mark.parametrize("make", [tiny_bert, tiny_token_bert])
def test_training_lowers_it(make, wrap):
    model = wrap(make()).train()
    attachment = attach(model, [InformationMaximization()])
    inputs = {**batch_for(model), "labels": torch.full_like(batch_for(model)["labels"], -100)}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = []
    for _ in range(12):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
        seen.append(attachment.terms["information_maximization"].item())
    assert seen[-1] < seen[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 1}, "InformationMaximization on a regression"),
        ({"problem_type": "multi_label_classification"}, "InformationMaximization on a model with several labels"),
    ],
)
def test_models_without_one_distribution_over_classes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attach(BertForSequenceClassification(bert_config(**options)), [InformationMaximization()])


def test_a_reward_for_collapse_is_refused():
    with pytest.raises(ValueError, match=r"`diversity_weight=-1.0` rewards.*collapse.*default 1.0"):
        InformationMaximization(diversity_weight=-1.0)
