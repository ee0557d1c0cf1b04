"""What a task is, and its loss over the rows that have a label."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.multitask.task import Task, check_tasks


def test_outputs_follow_from_the_names_and_the_kind():
    assert Task("a", label_names=["x", "y", "z"]).num_labels == 3
    assert Task("a", "regression").num_labels == 1 and Task("a", "regression", num_labels=4).num_labels == 4
    assert Task("a", "multi_label", num_labels=1).num_labels == 1
    assert Task("a", label_names=["x", "y"]).label_names == ("x", "y") and Task("a", num_labels=2).column == "labels_a"


def test_problems_go_by_the_names_of_configurations():
    kinds = {
        "classification": "single_label_classification",
        "regression": "regression",
        "multi_label": "multi_label_classification",
        "tokens": None,
    }
    assert {kind: Task("a", kind, num_labels=2).problem_type for kind in kinds} == kinds  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a-b", "num_labels": 2}, r"`a-b` as the name of a task is no identifier.*column.*Use letters"),
        ({"name": "a", "kind": "ranking"}, r"of kind `ranking`: there is no loss.*classification, regression"),
        ({"name": "a"}, r"`a` has 0 labels.*nothing to tell apart.*Give `num_labels=`"),
        ({"name": "a", "num_labels": 1}, r"`a` has 1 labels"),
        ({"name": "a", "kind": "tokens", "num_labels": 1}, r"`a` has 1 labels"),
        ({"name": "a", "num_labels": 3, "label_names": ["x", "y"]}, r"num_labels=3 and 2 label names.*Leave"),
        ({"name": "a", "num_labels": 2, "weight": 0.0}, r"weight=0.0.*not be learned.*positive"),
        ({"name": "a", "num_labels": 2, "weight": math.nan}, r"weight=nan"),
    ],
)
def test_what_makes_no_task_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Task(**options)


def test_names_are_different_and_there_is_a_task():
    tasks = [Task("a", num_labels=2), Task("b", num_labels=2)]
    assert check_tasks(tasks) == tuple(tasks)
    with pytest.raises(ValueError, match="two tasks are called `a`.*heads and columns"):
        check_tasks([tasks[0], tasks[0]])
    with pytest.raises(ValueError, match="there is no task"):
        check_tasks([])


@pytest.fixture
def logits():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


def test_loss_of_classes(logits):
    loss = Task("a", num_labels=4).loss(logits, torch.tensor([2, -100, 0]))
    rows = [(0, 2), (2, 0)]
    values = logits.tolist()
    own = [math.log(sum(map(math.exp, values[row]))) - values[row][label] for row, label in rows]
    assert loss.item() == pytest.approx(sum(own) / 2, rel=1e-6)


def test_loss_of_values(logits):
    loss = Task("a", "regression").loss(logits[:, :1], torch.tensor([1.0, -100.0, 3.0]))
    own = [(logits.tolist()[row][0] - value) ** 2 for row, value in ((0, 1.0), (2, 3.0))]
    assert loss.item() == pytest.approx(sum(own) / 2, rel=1e-6)


def test_loss_of_several_labels(logits):
    labels = torch.tensor([[0.0, 1, 1, 0], [-100] * 4, [1, 0, 0, 0]])
    loss = Task("a", "multi_label", num_labels=4).loss(logits, labels)
    own = 0.0
    for row in (0, 2):
        for value, label in zip(logits[row].tolist(), labels[row].tolist(), strict=True):
            own -= math.log(1 / (1 + math.exp(-value if label else value)))
    assert loss.item() == pytest.approx(own / 8, rel=1e-6)


def test_loss_of_tokens(logits):
    loss = Task("a", "tokens", num_labels=2).loss(logits.reshape(2, 3, 2), torch.tensor([[1, -100, 0], [-100] * 3]))
    pairs = logits.reshape(2, 3, 2)[0]
    own = [-pairs[place, label] + torch.logsumexp(pairs[place], 0) for place, label in ((0, 1), (2, 0))]
    torch.testing.assert_close(loss, (own[0] + own[1]) / 2)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("classification", torch.full((3,), -100)),
        ("regression", torch.full((3, 4), -100.0)),
        ("multi_label", torch.full((3, 4), -100.0)),
        ("tokens", torch.full((3,), -100)),
    ],
)
def test_without_a_label_the_loss_is_an_exact_zero_with_a_graph(kind, labels, logits):
    loss = Task("a", kind, num_labels=4).loss(logits, labels)
    loss.backward()
    assert loss == 0 and logits.grad is not None and not logits.grad.any()
