"""Norms of the gradients of rows, against one backward for each row."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer import Task
from hf_transfer.objectives.multitask.row_gradients import row_gradient_norms
from tests.objectives.task_rows import STARS, TAGS, TOPIC, WORDS, built, columns


def naive(task, heads, features, labels) -> float:
    """The root mean square over labelled rows (or tokens) of the gradient of the loss of that row alone."""
    if task.kind == "tokens":
        features, labels = features.flatten(0, 1), labels.flatten()
    squares = []
    for row, label in zip(features, labels, strict=True):
        if bool((label != -100).any()):
            row = row.clone().requires_grad_()
            loss = task.loss(heads.logits(task, row[None]), label[None])
            (gradient,) = torch.autograd.grad(loss, row)
            squares.append(gradient.square().sum().item())
    return math.sqrt(sum(squares) / len(squares))


PRICES = Task("prices", "regression", num_labels=2)


@pytest.mark.parametrize("task", [TOPIC, STARS, TAGS, WORDS, PRICES], ids=lambda task: task.name)
def test_against_a_backward_for_each_row(task):
    heads = built([TOPIC, STARS, TAGS, PRICES]).heads if task.kind != "tokens" else None
    if heads is None:
        heads = torch.nn.ModuleDict({task.name: torch.nn.Linear(4, task.num_labels).double()})
        heads.logits = lambda task, x: heads[task.name](x).float()  # type: ignore[assignment]
    shape = (8, 6, 4) if task.kind == "tokens" else (8, 4)
    features = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    labels = columns([task], shared=True)[task.column]
    if task is PRICES:
        labels = torch.randn(8, 2)
    labels[::3] = -100
    (norm,) = row_gradient_norms([task], heads, [features], [labels]).tolist()
    assert norm == pytest.approx(naive(task, heads, features, labels), rel=1e-5)


def test_does_not_depend_on_how_many_rows_there_are():
    heads = built([TOPIC]).heads
    features, labels = torch.randn(1, 4, dtype=torch.float64), torch.tensor([2])
    one = row_gradient_norms([TOPIC], heads, [features], [labels])
    many = row_gradient_norms([TOPIC], heads, [features.expand(7, 4)], [labels.expand(7)])
    torch.testing.assert_close(one, many)


def test_leaves_no_gradient_behind_and_works_without_grad():
    heads = built([TOPIC]).heads
    features = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        norms = row_gradient_norms([TOPIC], heads, [features], [torch.tensor([2, -100, 0])])
    assert not norms.requires_grad and norms > 0 and features.grad is None
    assert all(parameter.grad is None for parameter in heads.parameters())
    assert row_gradient_norms([TOPIC], heads, [features], [torch.full((3,), -100)]).tolist() == [0]
