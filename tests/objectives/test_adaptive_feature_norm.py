"""AFN: both forms, their constants, the rows they read, and that features grow in models."""

from __future__ import annotations

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_transfer import AdaptiveFeatureNorm, EntropyMinimization, TransferBatch, attach
from tests.models import batch_for, bert_config, lora, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit


def batch(labels=(0, -100, 1, -100)) -> TransferBatch:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(len(labels), 5, dtype=torch.float64, generator=generator, requires_grad=True)
    return TransferBatch(features=features, logits=torch.zeros(len(labels), 3), labels=torch.tensor(labels))


def test_the_constants_of_the_paper():
    assert AdaptiveFeatureNorm().config() == {"hard": False, "radius": 1.0, "weight": 0.05}
    assert AdaptiveFeatureNorm(hard=True).config() == {"hard": True, "radius": 25.0, "weight": 0.05}
    assert AdaptiveFeatureNorm(hard=True, radius=9.0).radius == 9.0


@pytest.mark.parametrize("labels", [(0, -100, 1, -100), (0, 1, 2, 0), (-100, -100, -100, -100)])
def test_stepwise_takes_every_row_whatever_its_label(labels):
    data, objective = batch(labels), AdaptiveFeatureNorm(radius=0.3)
    value = objective(data)
    assert value.item() == pytest.approx(0.09)
    value.backward()
    unit = data.features.detach() / data.features.detach().norm(dim=-1, keepdim=True)
    torch.testing.assert_close(data.features.grad, -2 * 0.3 * unit / 4)
    assert objective.diagnostics["norm"].item() == pytest.approx(data.features.norm(dim=-1).mean().item())


def test_hard_compares_the_mean_norm_of_either_side():
    data = batch()
    norms = data.features.detach().norm(dim=-1)
    expected = (norms[[0, 2]].mean() - 2) ** 2 + (norms[[1, 3]].mean() - 2) ** 2
    assert AdaptiveFeatureNorm(hard=True, radius=2.0)(data).item() == pytest.approx(expected.item())


def test_hard_with_one_side_only():
    data = batch((0, 1, 2, 0))
    expected = (data.features.detach().norm(dim=-1).mean() - 25) ** 2
    assert AdaptiveFeatureNorm(hard=True)(data).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("hard", [False, True])
def test_tokens_of_padding_are_left_out(hard):
    features = torch.randn(2, 4, 5, requires_grad=True)
    labels = torch.tensor([[1, -100, 2, 0], [-100] * 4])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    data = TransferBatch(features=features, logits=torch.zeros(2, 4, 3), labels=labels, attention_mask=mask)
    objective = AdaptiveFeatureNorm(hard=hard)
    objective(data).backward()
    assert not features.grad[1, 2:].any() and features.grad[1, :2].any(-1).all()
    expected = features.detach()[mask.bool()].norm(dim=-1).mean()
    torch.testing.assert_close(objective.diagnostics["norm"], expected)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet, tiny_token_bert])
def test_training_lets_features_grow_in_any_model(make, hard):
    model = make().train()
    attachment = attach(model, [AdaptiveFeatureNorm(hard=hard, weight=1.0)])
    objective = attachment.objectives["adaptive_feature_norm"]
    inputs = {**batch_for(model), "labels": torch.full_like(batch_for(model)["labels"], -100)}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    norms = []
    for _ in range(8):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
        norms.append(objective.diagnostics["norm"].item())
    assert norms[-1] > norms[0]


@pytest.mark.parametrize("options", [{"num_labels": 1}, {"problem_type": "multi_label_classification"}])
@pytest.mark.parametrize("hard", [False, True])
def test_outputs_that_are_no_classes(options, hard):
    """A regression, and several labels a row, of which the second row has none."""
    model = BertForSequenceClassification(bert_config(**options)).train()
    inputs = batch_for(model)
    labels = torch.rand(4) if "num_labels" in options else torch.ones(4, 3)
    labels[1] = -100
    attachment = attach(model, [AdaptiveFeatureNorm(hard=hard)])
    model(**{**inputs, "labels": labels}).loss.backward()
    assert attachment.terms["adaptive_feature_norm"] > 0


@pytest.mark.parametrize("hard", [False, True])
def test_features_of_zero_are_finite(hard):
    features = torch.zeros(3, 4, requires_grad=True)
    data = TransferBatch(features=features, logits=torch.zeros(3, 2), labels=torch.tensor([0, -100, 1]))
    AdaptiveFeatureNorm(hard=hard)(data).backward()
    assert torch.equal(features.grad, torch.zeros(3, 4))


def test_under_lora_with_the_entropy_of_the_paper():
    model = lora(tiny_bert(), ["query"], "classifier").train()
    attachment = attach(model, [AdaptiveFeatureNorm(), EntropyMinimization(weight=0.1)])
    inputs = batch_for(model)
    inputs["labels"][1::2] = -100
    assert model(**inputs).loss.isfinite() and len(attachment.terms) == 3
    assert "adaptive_feature_norm_norm" in attachment.drain()[0]


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_a_radius_that_lets_nothing_grow_is_refused(radius):
    with pytest.raises(ValueError, match=r"`radius=.*` does not let the features grow.*1.0, or 25.0 with `hard=True`"):
        AdaptiveFeatureNorm(radius=radius)
