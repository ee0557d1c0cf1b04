"""Focal loss against the formula written out, in every kind of classification."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hf_transfer import TransferBatch, attach
from hf_transfer.objective import adjusted_task_loss
from hf_transfer.objectives.task.focal_loss import FocalLoss
from hf_transfer.objectives.task.label_smoothing import LabelSmoothing
from tests.models import batch_for, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit


def batch(labels) -> TransferBatch:
    labels = torch.tensor(labels)
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(*labels.shape, 3, dtype=torch.float64, generator=generator).requires_grad_()
    return TransferBatch(features=torch.zeros(len(labels), 2), logits=logits, labels=labels)


def naive(logits, labels, gamma) -> float:
    losses = []
    for row, label in zip(logits.flatten(0, -2).tolist(), labels.flatten().tolist(), strict=True):
        if label != -100:
            p = math.exp(row[label]) / sum(map(math.exp, row))
            losses.append(-((1 - p) ** gamma) * math.log(p))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("labels", [[0, 2, 1], [1, -100, 2], [[1, 0, -100], [2, -100, -100]]])
def test_value_against_a_loop(gamma, labels):
    data = batch(labels)
    assert FocalLoss(gamma=gamma)(data).item() == pytest.approx(naive(data.logits, data.labels, gamma), rel=1e-10)


def test_gamma_zero_is_the_cross_entropy():
    data = batch([0, 2, 1])
    torch.testing.assert_close(FocalLoss(gamma=0.0)(data), F.cross_entropy(data.logits, data.labels))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradient_goes_through_the_weights_too(gamma):
    labels = torch.tensor([0, 2, 1])

    def loss(logits):
        return FocalLoss(gamma=gamma)(TransferBatch(torch.zeros(3, 2), logits, labels))

    assert torch.autograd.gradcheck(loss, batch([0, 2, 1]).logits)


def test_several_labels_a_row_are_the_sigmoid_loss_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    labels = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [-100, 1, 1, 0]])
    losses = []
    for x, y in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if y != -100:
            p = 1 / (1 + math.exp(-x))
            p = p if y else 1 - p
            losses.append(-((1 - p) ** 2) * math.log(p))
    value = FocalLoss()(TransferBatch(torch.zeros(3, 2), logits, labels))
    assert value.item() == pytest.approx(sum(losses) / len(losses), rel=1e-10)


def test_a_step_raises_the_probability_of_the_label_and_hard_rows_move_more():
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]], requires_grad=True)
    FocalLoss()(TransferBatch(torch.zeros(2, 2), logits, torch.tensor([0, 0]))).backward()
    assert (logits.grad[:, 0] < 0).all() and (logits.grad[:, 1] > 0).all()
    assert logits.grad[0].norm() < 1e-3 * logits.grad[1].norm()


def test_a_certain_row_of_a_small_gamma_is_finite():
    logits = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
    value = FocalLoss(gamma=0.3)(TransferBatch(torch.zeros(2, 2), logits, torch.tensor([0, 0])))
    value.backward()
    assert value.item() == pytest.approx(100) and logits.grad.isfinite().all()


def test_with_smoothed_labels_every_class_has_its_own_weight():
    data = batch([0, 2, 1])
    p = data.logits.softmax(-1)
    targets = 0.7 * F.one_hot(data.labels, 3) + 0.1
    expected = -(targets * (1 - p) ** 2 * p.log()).sum(-1).mean()
    smoothing, focal = LabelSmoothing(smoothing=0.3), FocalLoss()
    torch.testing.assert_close(adjusted_task_loss([smoothing, focal], data), expected)
    torch.testing.assert_close(adjusted_task_loss([focal, smoothing], data), expected)


@pytest.mark.parametrize("make", [tiny_bert, tiny_token_bert, tiny_llama, tiny_vit, tiny_resnet])
def test_in_models(make):
    model = make().train()
    attachment = attach(model, [FocalLoss()])
    model(**batch_for(model)).loss.backward()
    assert 0 < attachment.terms["task"] < 1.2
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_under_lora_in_bfloat16():
    model = lora(tiny_bert(), ["query"], "classifier").train().bfloat16()
    attachment = attach(model, [FocalLoss()])
    loss = model(**batch_for(model)).loss
    loss.backward()
    assert attachment.terms["task"].dtype == torch.float32 and loss.isfinite()


def test_no_labelled_row_is_an_exact_zero_with_a_graph():
    data = batch([-100, -100])
    value = FocalLoss()(data)
    value.backward()
    assert value.item() == 0 and not data.logits.grad.any()


def test_negative_gamma_is_refused():
    with pytest.raises(ValueError, match="`gamma=-1` is negative: rows would count more.*default 2.0"):
        FocalLoss(gamma=-1)
