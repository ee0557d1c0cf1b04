"""Self-training: which rows are kept, thresholds that follow the predictions, and what it teaches a model."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer import ModelSpec, PseudoLabels, TransferBatch, attach
from tests.models import batch_for, lora, tiny_bert, tiny_token_bert


def built(**options) -> PseudoLabels:
    return PseudoLabels(**options).build(ModelSpec(feature_dim=4, num_labels=3))


def batch(labels=(0, -100, -100, 1, -100), seed=0, scale=2.0, **options) -> TransferBatch:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(len(labels), 3, generator=generator, dtype=torch.float64)
    options = {"labels": torch.tensor(labels), "logits": logits.requires_grad_(), **options}
    return TransferBatch(features=torch.zeros(len(labels), 4), **options)


def expected(logits, unlabelled, thresholds) -> tuple[float, float]:
    total = kept = 0
    for row in unlabelled:
        p = [math.exp(value) for value in logits[row]]
        best = max(range(3), key=p.__getitem__)
        confidence = p[best] / sum(p)
        if confidence >= thresholds[best]:
            kept += 1
            total -= math.log(confidence)
    return total / len(unlabelled), kept / len(unlabelled)


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.8])
def test_value_and_share_against_a_loop(threshold):
    data, objective = batch(), built(threshold=threshold)
    value, share = expected(data.logits.tolist(), [1, 2, 4], [threshold] * 3)
    assert objective(data).item() == pytest.approx(value, rel=1e-10)
    assert objective.diagnostics["share"].item() == pytest.approx(share)


def test_labelled_rows_get_no_gradient_and_unlabelled_ones_more_certainty():
    data, objective = batch(), built(threshold=0.0)
    objective(data).backward()
    gradient = data.logits.grad
    assert not gradient[[0, 3]].any() and gradient[[1, 2, 4]].abs().sum(1).gt(0).all()
    moved = data.logits.detach() - 0.1 * gradient
    before, after = (z.softmax(-1).max(-1).values for z in (data.logits.detach(), moved))
    assert (after[[1, 2, 4]] > before[[1, 2, 4]]).all()


def test_thresholds_follow_the_mean_prediction():
    objective = built(threshold=0.9, class_balanced=True, momentum=0.5)
    average = [1 / 3] * 3
    for seed in range(4):
        data = batch(seed=seed)
        rows = data.logits.detach()[[1, 2, 4]].softmax(-1).tolist()
        average = [0.5 * average[c] + 0.5 * sum(row[c] for row in rows) / 3 for c in range(3)]
        thresholds = [0.9 * value / max(average) for value in average]
        value, share = expected(data.logits.tolist(), [1, 2, 4], thresholds)
        assert objective(data).item() == pytest.approx(value, rel=1e-5)
        assert objective.diagnostics["share"].item() == pytest.approx(share)
    torch.testing.assert_close(objective.mean, torch.tensor(average))


def test_a_rare_class_is_kept_where_one_threshold_drops_it():
    logits = torch.tensor([[6.0, 0.0, 0.0]] * 9 + [[0.0, 1.5, 0.0]])
    data = TransferBatch(features=torch.zeros(10, 4), logits=logits, labels=torch.full((10,), -100))
    plain, balanced = built(threshold=0.9), built(threshold=0.9, class_balanced=True, momentum=0.0)
    plain(data), balanced(data)
    assert plain.diagnostics["share"].item() == pytest.approx(0.9)
    assert balanced.diagnostics["share"].item() == 1.0


def test_without_unlabelled_rows_the_average_stays():
    objective = built(class_balanced=True)
    before = objective.mean.clone()
    data = batch(labels=(0, 1, 2))
    loss = objective(data)
    loss.backward()
    assert loss.item() == 0 and not data.logits.grad.any() and torch.equal(objective.mean, before)


def test_the_average_is_saved_with_the_state():
    trained, fresh = built(class_balanced=True), built(class_balanced=True)
    trained(batch())
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(trained.mean, fresh.mean) and not torch.equal(fresh.mean, torch.full((3,), 1 / 3))


def test_tokens_count_in_rows_without_any_label():
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([[0, -100, 1], [-100, -100, -100]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    data = TransferBatch(features=torch.zeros(2, 3, 4), logits=logits, labels=labels, attention_mask=mask)
    value, _ = expected(logits[1].tolist(), [0, 1], [0.0] * 3)
    assert built(threshold=0.0)(data).item() == pytest.approx(value, rel=1e-5)


def test_the_weight_rises():
    objective = PseudoLabels()
    assert objective.weight_at(0.0) == 0 and float(objective.weight_at(0.5)) > 0.98


@pytest.mark.parametrize("make", [tiny_bert, lambda: lora(tiny_bert(), ["query"], "classifier"), tiny_token_bert])
def test_in_a_model(make):
    torch.manual_seed(0)
    model = make().train()
    attachment = attach(model, [PseudoLabels(threshold=0.0)])
    inputs = batch_for(model)
    inputs["labels"][1::2] = -100
    model(**inputs).loss.backward()
    assert attachment.terms["pseudo_labels"] > 0


def test_bfloat16_logits_of_a_thousand():
    data = batch(scale=1e3, logits=(1e4 * torch.eye(3)[[0, 1, 2, 0, 1]]).bfloat16().float().requires_grad_())
    loss = built()(data)
    loss.backward()
    assert loss.item() == 0 and data.logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "`threshold=1.5` is outside.*probability of the predicted class.*0.95"),
        ({"momentum": 1.0}, "`momentum=1.0` is outside.*never follow the predictions.*0.99"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        PseudoLabels(**options)


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_what_has_no_softmax_is_refused(problem):
    with pytest.raises(ValueError, match="PseudoLabels on a"):
        attach(tiny_bert(problem_type=problem), [PseudoLabels()])
