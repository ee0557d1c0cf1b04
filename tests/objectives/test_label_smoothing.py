"""Label smoothing inside the model against torch's own, and together with what else changes targets."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hf_transfer import ModelSpec, TransferBatch, attach
from hf_transfer.objectives.task.label_smoothing import LabelSmoothing
from tests.models import batch_for, lora, tiny_bert, tiny_gpt2, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def batch(labels, logits=None) -> TransferBatch:
    labels = torch.tensor(labels)
    logits = torch.randn(*labels.shape, 4, dtype=torch.float64) if logits is None else logits
    return TransferBatch(features=torch.zeros(len(labels), 2), logits=logits.requires_grad_(), labels=labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("labels", [[0, 3, 1], [2, -100, 0], [[1, -100, 2], [0, 0, -100]]])
def test_equals_the_cross_entropy_of_torch(smoothing, labels):
    data = batch(labels)
    reference = F.cross_entropy(data.logits.flatten(0, -2), data.labels.flatten(), label_smoothing=smoothing)
    value = LabelSmoothing(smoothing=smoothing)(data)
    torch.testing.assert_close(value, reference, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(x, data.logits)[0] for x in (value, reference))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("make", [tiny_bert, tiny_token_bert, tiny_vit])
@pytest.mark.parametrize("wrapped", [False, True], ids=["full", "lora"])
def test_inside_a_model_it_replaces_the_task_loss(make, wrapped):
    model = make(**QUIET)
    if wrapped:
        targets = ["q_proj", "v_proj"] if make is tiny_vit else ["query", "value"]
        model = lora(model, targets, "classifier")
    inputs = batch_for(model)
    del inputs["domain"]
    logits = model.train()(**inputs).logits
    with attach(model, [LabelSmoothing(smoothing=0.2)]) as attachment:
        loss = model(**inputs).loss
    reference = F.cross_entropy(logits.flatten(0, -2), inputs["labels"].flatten(), label_smoothing=0.2)
    torch.testing.assert_close(loss, reference)
    assert set(attachment.terms) == {"task"}


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama, tiny_resnet])
def test_other_classifiers(make):
    model = make().train()
    attachment = attach(model, [LabelSmoothing()])
    model(**batch_for(model)).loss.backward()
    assert attachment.terms["task"] > 0


def test_never_below_the_entropy_of_the_targets():
    """The best a model can do is to predict the smoothed targets."""
    targets = torch.tensor([0.925, 0.025, 0.025, 0.025], dtype=torch.float64)
    best = LabelSmoothing()(batch([0], targets.log().unsqueeze(0)))
    assert best.item() == pytest.approx(-(targets * targets.log()).sum().item())
    certain = LabelSmoothing()(batch([0], torch.tensor([[30.0, 0, 0, 0]])))
    assert certain > best


def test_several_labels_a_row_are_smoothed_between_no_and_yes():
    logits = torch.randn(3, 4, dtype=torch.float64)
    labels = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [-100, 1, 1, -100]], dtype=torch.float64)
    value = LabelSmoothing(smoothing=0.2)(TransferBatch(torch.zeros(3, 2), logits, labels))
    known = labels != -100
    reference = F.binary_cross_entropy_with_logits(logits[known], 0.8 * labels[known] + 0.1)
    torch.testing.assert_close(value, reference)


def test_no_labelled_row_is_an_exact_zero_with_a_graph():
    data = batch([-100, -100])
    value = LabelSmoothing()(data)
    assert value.item() == 0
    value.backward()
    assert not data.logits.grad.any()


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 3.0])
def test_a_share_outside_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"`smoothing=\S+` is outside \[0, 1\).*default 0.1"):
        LabelSmoothing(smoothing=smoothing)


def test_a_regression_is_refused():
    with pytest.raises(ValueError, match="LabelSmoothing on a regression"):
        LabelSmoothing().build(ModelSpec(feature_dim=4, num_labels=1))
