"""MCD against the formula written out: who ascends and who descends what."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from hf_transfer import MaximumClassifierDiscrepancy, ModelSpec, TransferBatch, attach
from tests.models import batch_for, tiny_bert, tiny_token_bert


def built(**options) -> MaximumClassifierDiscrepancy:
    torch.manual_seed(0)
    options = {"hidden_size": 8, "strength": 1.0, **options}
    return MaximumClassifierDiscrepancy(**options).build(ModelSpec(feature_dim=4, num_labels=3)).double()


def batch(labels=(0, -100, 2, -100, -100)):
    generator = torch.Generator().manual_seed(0)
    return TransferBatch(
        features=torch.randn(len(labels), 4, dtype=torch.float64, generator=generator, requires_grad=True),
        logits=torch.randn(len(labels), 3, dtype=torch.float64, generator=generator),
        labels=torch.tensor(labels),
    )


def softmax(row):
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def parts(objective, features, labels):
    """Cross-entropy and discrepancy, written out and without any reversal."""
    source, target = labels != -100, labels == -100
    first, second = objective.first(features), objective.second(features)
    fit = F.cross_entropy(first[source], labels[source]) + F.cross_entropy(second[source], labels[source])
    return fit, (first.softmax(-1) - second.softmax(-1)).abs()[target].mean()


def test_value_against_the_formula():
    objective, data = built(), batch()
    losses, differences = [], []
    for f, label in zip(data.features.detach(), data.labels.tolist(), strict=True):
        p, q = (softmax(classifier(f).tolist()) for classifier in (objective.first, objective.second))
        if label >= 0:
            losses.append(-math.log(p[label]) - math.log(q[label]))
        else:
            differences.append(sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 3)
    expected = sum(losses) / 2 - sum(differences) / 3
    assert objective(data).item() == pytest.approx(expected, rel=1e-10)
    assert objective.diagnostics["discrepancy"].item() == pytest.approx(sum(differences) / 3)


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0, 4.0])
def test_every_gradient_has_the_direction_of_the_paper(strength):
    objective, data = built(strength=strength), batch()
    objective(data).backward()
    features = data.features.detach().clone().requires_grad_()
    fit, discrepancy = parts(objective, features, data.labels)
    own = list(objective.parameters())
    # the classifiers descend the cross-entropy and ascend the discrepancy, whatever the strength
    for parameter, expected in zip(own, torch.autograd.grad(fit - discrepancy, own, retain_graph=True), strict=True):
        torch.testing.assert_close(parameter.grad, expected)
    # the backbone descends both
    (of_fit,) = torch.autograd.grad(fit, features, retain_graph=True)
    (of_discrepancy,) = torch.autograd.grad(discrepancy, features)
    torch.testing.assert_close(data.features.grad, of_fit + strength * of_discrepancy)


def test_the_classifiers_differ_from_the_start():
    objective = built()
    assert not torch.equal(objective.first[0].weight, objective.second[0].weight)
    objective(batch())
    assert objective.diagnostics["discrepancy"] > 0


def test_the_head_of_the_model_is_no_player():
    data = batch()
    logits = data.logits.clone().requires_grad_()
    term = built()(replace(data, logits=logits))
    assert torch.autograd.grad(term, logits, allow_unused=True) == (None,)


def test_without_a_target_the_cross_entropies_alone():
    objective, data = built(), batch(labels=(0, 1, 2))
    expected = sum(F.cross_entropy(c(data.features), data.labels) for c in (objective.first, objective.second))
    torch.testing.assert_close(objective(data), expected)
    assert objective.diagnostics["discrepancy"] == 0


def test_without_labels_an_exact_zero():
    objective, data = built(), batch(labels=(-100, -100))
    value = objective(data)
    value.backward()
    assert value.item() == 0 and not data.features.grad.any()
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())


def test_accuracy_is_that_of_both_on_the_source():
    objective, data = built(), batch(labels=(0, -100, 1, -100))
    with torch.no_grad():
        for classifier, bias in ((objective.first, [9.0, 0, 0]), (objective.second, [0, 0, 9.0])):
            classifier[-1].weight.zero_()
            classifier[-1].bias.copy_(torch.tensor(bias))
    objective(data)
    assert objective.diagnostics["accuracy"].item() == 0.25  # the first is right once in two, the second never
    assert objective.diagnostics["discrepancy"].item() == pytest.approx(2 / 3, abs=1e-3)


def test_huge_features():
    objective = built()
    data = batch()
    data = replace(data, features=(1e4 * data.features.detach()).requires_grad_())
    value = objective(data)
    value.backward()
    assert value.isfinite() and data.features.grad.isfinite().all()


def test_tokens_are_rows():
    model = tiny_token_bert().train()
    attachment = attach(model, [MaximumClassifierDiscrepancy(hidden_size=8)])
    batch = batch_for(model)
    batch["labels"][1::2] = -100
    model(**batch).loss.backward()
    assert attachment.drain()[0] == [
        "loss_task",
        "loss_maximum_classifier_discrepancy",
        "maximum_classifier_discrepancy_discrepancy",
        "maximum_classifier_discrepancy_accuracy",
    ]
    assert attachment.terms["maximum_classifier_discrepancy"] > 0


def test_regressions_are_refused_when_attached():
    with pytest.raises(ValueError, match="MaximumClassifierDiscrepancy on a regression.*Leave it out"):
        attach(tiny_bert(num_labels=1), [MaximumClassifierDiscrepancy()])
