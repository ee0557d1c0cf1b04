"""The loss over labelled rows against loops and the models' own losses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from hf_transfer.functional.task_loss import (
    TaskRows,
    labelled_mean,
    labelled_multi_label,
    labelled_regression,
    task_loss,
)


def test_labelled_mean_is_the_models_loss_where_something_is_labelled():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, -100, 3])
    loss = F.cross_entropy(logits, labels)
    assert labelled_mean(loss, logits, labels) == loss
    expected = -(logits.log_softmax(-1)[0, 1] + logits.log_softmax(-1)[2, 3]) / 2
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_nothing_labelled_is_an_exact_zero_with_finite_zero_gradients(shape):
    logits = torch.randn(*shape, 4, requires_grad=True)
    labels = torch.full(shape, -100)
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
    assert loss.isnan()
    value = labelled_mean(loss, logits, labels)
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_regression_against_a_loop():
    logits = torch.randn(5, 1, dtype=torch.float32)
    labels = torch.tensor([0.5, -100.0, 2.0, -100.0, -1.0])
    errors = [(x - y) ** 2 for x, y in zip(logits.flatten().tolist(), labels.tolist(), strict=True) if y != -100.0]
    assert labelled_regression(logits, labels).item() == pytest.approx(sum(errors) / len(errors), rel=1e-6)


def test_multi_label_against_a_loop():
    logits = torch.randn(3, 4)
    labels = torch.tensor([[1.0, 0, 1, 0], [-100] * 4, [0, 0, 1, -100]])
    losses = []
    for x, y in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if y != -100:
            p = 1 / (1 + math.exp(-x))
            losses.append(-math.log(p if y else 1 - p))
    assert labelled_multi_label(logits, labels).item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("loss", [labelled_regression, labelled_multi_label])
def test_nothing_labelled_of_other_problems_is_an_exact_zero(loss):
    logits = torch.randn(3, 2, requires_grad=True)
    value = loss(logits, torch.full((3, 2), -100.0))
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def loop_over(log_probabilities, targets, weights, labelled) -> float:
    total, count = 0.0, 0
    for n in range(len(targets)):
        count += bool(labelled[n])
        for c in range(targets.shape[1]):
            total -= float(weights[n, c]) * float(targets[n, c]) * float(log_probabilities[n, c])
    return total / max(count, 1)


@pytest.mark.parametrize("shape", [(6,), (2, 3)], ids=["rows", "tokens"])
def test_task_loss_of_plain_rows_is_the_cross_entropy(shape):
    torch.manual_seed(0)
    logits = torch.randn(*shape, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, shape)
    labels.view(-1)[1] = -100
    loss = task_loss(TaskRows.of(logits, labels))
    expected = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_task_loss_of_several_labels_is_the_binary_cross_entropy():
    logits = torch.randn(3, 4, dtype=torch.float64)
    labels = torch.tensor([[1.0, 0, 1, 0], [-100] * 4, [0, 0, 1, -100]], dtype=torch.float64)
    rows = TaskRows.of(logits, labels)
    assert rows.multi_label and rows.targets.shape == (12, 2)
    torch.testing.assert_close(task_loss(rows).float(), labelled_multi_label(logits, labels))


def test_task_loss_with_changed_targets_and_weights_against_a_loop():
    torch.manual_seed(0)
    rows = TaskRows.of(torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, -100, 1, 1]))
    targets = torch.rand(5, 3, dtype=torch.float64).softmax(-1)
    weights = torch.rand(5, 3, dtype=torch.float64) * rows.labelled.unsqueeze(-1)
    changed = replace(rows, targets=targets, weights=weights)
    expected = loop_over(rows.log_probabilities, targets, weights, rows.labelled)
    assert task_loss(changed).item() == pytest.approx(expected, rel=1e-12)


def test_rows_know_their_example():
    labels = torch.tensor([[1, -100], [0, 2]])
    rows = TaskRows.of(torch.randn(2, 2, 3), labels)
    assert rows.example.tolist() == [0, 0, 1, 1]
    assert rows.labelled.tolist() == [True, False, True, True] and rows.labels.tolist() == [1, 0, 0, 2]
    assert rows.weights.sum(-1).tolist() == [3, 0, 3, 3]


@pytest.mark.parametrize("labels", [torch.full((3,), -100), torch.full((3, 2), -100.0)], ids=["classes", "several"])
def test_task_loss_without_labels_is_an_exact_zero_with_a_graph(labels):
    logits = torch.randn(3, 2, requires_grad=True)
    loss = task_loss(TaskRows.of(logits, labels))
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_rows_weigh_by_number_so_that_parts_of_a_batch_add_up():
    """Dividing by the sum of the weights would make two ranks differ from one."""
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    class_weights = torch.tensor([3.0, 1.0, 0.5])

    def loss(part: slice) -> torch.Tensor:
        rows = TaskRows.of(logits[part], labels[part])
        return task_loss(replace(rows, weights=rows.weights * class_weights))

    torch.testing.assert_close((loss(slice(2)) + loss(slice(2, 4))) / 2, loss(slice(4)))


# --- sample weights ------------------------------------------------------------------------------------------------


def looped(logits, labels, weight) -> float:
    """sum_i w_i l_i / number of labelled entries, entry by entry."""
    total, count = 0.0, 0
    for row, label, w in zip(logits.tolist(), labels.tolist(), weight.tolist(), strict=True):
        entries = list(zip(row, label, strict=True)) if isinstance(label, list) else [(row, label)]
        for scores, number in entries:
            if number != -100:
                total += w * (math.log(sum(math.exp(s) for s in scores)) - scores[number])
                count += 1
    return total / count


@pytest.mark.parametrize(
    ("shape", "labels"),
    [((4,), [1, -100, 0, 2]), ((3, 2), [[0, -100], [2, 1], [-100, -100]])],
    ids=["examples", "tokens"],
)
def test_sample_weights_against_a_loop(shape, labels):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, 3, dtype=torch.float64, generator=generator)
    weight = torch.tensor([0.5, 3.0, 0.0, 2.5][: shape[0]], dtype=torch.float64)
    value = task_loss(TaskRows.of(logits, torch.tensor(labels), weight))
    assert value.item() == pytest.approx(looped(logits, torch.tensor(labels), weight), rel=1e-12)
    plain = task_loss(TaskRows.of(logits, torch.tensor(labels)))
    assert value.item() != pytest.approx(plain.item(), rel=1e-3)
    assert torch.equal(task_loss(TaskRows.of(logits, torch.tensor(labels), torch.ones_like(weight))), plain)


def test_sample_weights_of_several_labels_a_row():
    logits = torch.randn(3, 4)
    labels = torch.tensor([[1.0, 0, 1, 0], [0, 1, -100, 1], [-100.0] * 4])
    weight = torch.tensor([2.0, 0.25, 7.0])
    losses, count = 0.0, 0
    for row, marks, w in zip(logits.tolist(), labels.tolist(), weight.tolist(), strict=True):
        for x, y in zip(row, marks, strict=True):
            if y != -100:
                losses, count = losses + w * math.log1p(math.exp(-x if y else x)), count + 1
    assert labelled_multi_label(logits, labels, weight).item() == pytest.approx(losses / count, rel=1e-5)
    assert task_loss(TaskRows.of(logits, labels, weight)).item() == pytest.approx(losses / count, rel=1e-5)


@pytest.mark.parametrize("outputs", [1, 2])
def test_sample_weights_of_a_regression(outputs):
    logits, labels = torch.randn(3, outputs), torch.randn(3, outputs)
    labels[1] = -100
    weight = torch.tensor([2.0, 5.0, 0.5])
    errors = ((logits - labels) ** 2).sum(-1)
    expected = (2 * errors[0] + 0.5 * errors[2]) / (2 * outputs)
    value = labelled_regression(logits, labels if outputs > 1 else labels.flatten(), weight)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("loss", [labelled_regression, labelled_multi_label])
def test_rows_of_weight_zero_have_no_gradient(loss):
    logits = torch.randn(3, 2, requires_grad=True)
    loss(logits, torch.ones(3, 2), torch.tensor([1.0, 0.0, 1.0])).backward()
    assert not logits.grad[1].any() and logits.grad[0].all()
