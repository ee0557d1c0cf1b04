"""BNM: its value and scale, the rows it reads, and what it does that entropy alone does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification

from hf_transfer import BatchNuclearNorm, EntropyMinimization, TransferBatch, attach
from tests.models import batch_for, bert_config, lora, tiny_bert, tiny_token_bert


def batch(logits, labels=None, **fields) -> TransferBatch:
    labels = torch.full((len(logits),), -100) if labels is None else torch.tensor(labels)
    return TransferBatch(features=torch.zeros(*logits.shape[:-1], 2), logits=logits, labels=labels, **fields)


def random_logits(rows=6, classes=4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, classes, dtype=torch.float64, generator=generator)


def nuclear(logits) -> float:
    """The trace of the root of P'P, from its eigenvalues."""
    p = np.exp(logits.numpy())
    p /= p.sum(1, keepdims=True)
    return float(np.sqrt(np.linalg.eigvalsh(p.T @ p).clip(0)).sum())


def test_the_constants_of_the_paper():
    assert BatchNuclearNorm().config() == {"weight": 1.0}


def test_value_is_that_of_the_unlabelled_rows_over_their_number():
    logits = random_logits().requires_grad_()
    value = BatchNuclearNorm()(batch(logits, [1, -100, -100, 0, -100, -100]))
    assert value.item() == pytest.approx(-nuclear(logits.detach()[[1, 2, 4, 5]]) / 4, rel=1e-9)
    value.backward()
    assert not logits.grad[[0, 3]].any() and logits.grad[[1, 2, 4, 5]].any(1).all()


def test_tokens_are_rows():
    logits = random_logits(12).reshape(3, 4, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
    value = BatchNuclearNorm()(batch(logits, [[-100] * 4] * 3, attention_mask=mask))
    assert value.item() == pytest.approx(-nuclear(logits[mask.bool()]) / 8, rel=1e-9)


def test_the_row_of_a_rare_class_is_kept_where_entropy_gives_it_away():
    """Seven rows are sure of class 0; the last hesitates and leans to it by a little."""
    logits = torch.tensor([[6.0, 0.0]] * 7 + [[0.2, 0.0]], requires_grad=True)
    BatchNuclearNorm()(batch(logits)).backward()
    assert logits.grad[-1, 1] < 0  # descent raises class 1
    logits.grad = None
    EntropyMinimization()(batch(logits)).backward()
    assert logits.grad[-1, 1] > 0


def test_equal_predictions_have_a_finite_gradient_that_sharpens():
    logits = torch.tensor([[1.0, 0.0, 0.0]] * 4, requires_grad=True)
    BatchNuclearNorm()(batch(logits)).backward()
    assert logits.grad.isfinite().all() and (logits.grad[:, 0] < 0).all()
    torch.testing.assert_close(logits.grad, logits.grad[:1].expand(4, 3))  # and no rounding errors in it


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_undecided_and_certain_predictions_have_finite_gradients(scale):
    logits = (scale * torch.eye(3).repeat(2, 1)).requires_grad_()
    BatchNuclearNorm()(batch(logits)).backward()
    assert logits.grad.isfinite().all()


def test_without_an_unlabelled_row_it_is_an_exact_zero_with_a_graph():
    logits = random_logits(3).requires_grad_()
    value = BatchNuclearNorm()(batch(logits, [0, 1, 2]))
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("make", [tiny_bert, tiny_token_bert])
def test_training_lowers_it_and_keeps_predictions_varied(make):
    model = make(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    attachment = attach(model, [BatchNuclearNorm()])
    objective = attachment.objectives["batch_nuclear_norm"]
    inputs = {**batch_for(model, 6), "labels": torch.full_like(batch_for(model, 6)["labels"], -100)}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    seen = []
    for _ in range(30):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
        seen.append(attachment.terms["batch_nuclear_norm"].item())
    assert seen[-1] < seen[0] < 0
    assert objective.diagnostics["diversity"] > 0.4  # of log 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_lora(dtype):
    model = lora(tiny_bert(), ["query"], "classifier").train().to(dtype)
    attachment = attach(model, [BatchNuclearNorm()])
    inputs = batch_for(model)
    inputs["labels"][1::2] = -100
    model(**inputs).loss.backward()
    term = attachment.terms["batch_nuclear_norm"]
    assert term.dtype == torch.float32 and -1 <= term < 0
    assert {"batch_nuclear_norm_entropy", "batch_nuclear_norm_diversity"} <= set(attachment.drain()[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 1}, "BatchNuclearNorm on a regression"),
        ({"problem_type": "multi_label_classification"}, "BatchNuclearNorm on a model with several labels"),
    ],
)
def test_models_without_one_distribution_over_classes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attach(BertForSequenceClassification(bert_config(**options)), [BatchNuclearNorm()])
