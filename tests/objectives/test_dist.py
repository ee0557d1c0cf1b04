"""DIST in a batch: against a loop, masked rows, and the two classes on which half of it says nothing."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from hf_transfer import DIST, attach
from tests.models import batch_for, tiny_bert, tiny_token_bert
from tests.objectives.prediction_checks import batch_with, built


def expected_term(student, teacher, beta=1.0, gamma=1.0, temperature=1.0):
    shares = []
    for logits in (student, teacher):
        powers = np.exp(logits.detach().double().numpy() / temperature)
        shares.append(powers / powers.sum(1, keepdims=True))
    p, q = shares
    between = np.mean([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(len(p))])
    within = np.mean([1 - np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(p.shape[1])])
    return temperature**2 * (beta * between + gamma * within)


@pytest.mark.parametrize(
    ("beta", "gamma", "temperature"), [(1.0, 1.0, 1.0), (2.0, 0.5, 4.0), (0.0, 1.0, 1.0), (1.0, 0.0, 2.0)]
)
def test_against_numpy(beta, gamma, temperature):
    student, teacher = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    objective = built(DIST, teacher, beta=beta, gamma=gamma, temperature=temperature)
    expected = expected_term(student, teacher, beta, gamma, temperature)
    assert objective(batch_with(student)).item() == pytest.approx(expected, rel=1e-10) and expected > 0.1


def test_rows_that_do_not_count_are_as_if_they_were_not_there():
    student, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    labels = [0, -100, 1, -100, -100, 2]
    value = built(DIST, teacher, rows="unlabelled")(batch_with(student, labels))
    assert value.item() == pytest.approx(expected_term(student[[1, 3, 4]], teacher[[1, 3, 4]]), rel=1e-4)
    value.backward()
    assert not student.grad[[0, 2, 5]].any() and student.grad[[1, 3, 4]].any(-1).all()


def test_tokens_are_rows_of_one_batch():
    teacher, student = tiny_token_bert(), tiny_token_bert()
    torch.nn.init.normal_(teacher.classifier.weight)
    torch.nn.init.normal_(student.classifier.weight)
    batch = batch_for(student)
    student.eval().training = True
    with attach(student, [DIST(teacher)]) as attachment:
        logits = student(**batch).logits
        term = attachment.terms["dist"].item()
    with torch.no_grad():
        said = teacher.eval()(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits
    kept = batch["attention_mask"].bool()
    assert term == pytest.approx(expected_term(logits[kept], said[kept]), rel=1e-3)


def test_one_row_has_the_part_between_classes_only():
    student, teacher = torch.randn(1, 4, requires_grad=True), torch.randn(1, 4)
    value = built(DIST, teacher)(batch_with(student))
    alone = built(DIST, teacher, gamma=0.0)(batch_with(student))
    assert value.item() == pytest.approx(alone.item(), rel=1e-6) and value > 0
    nothing = built(DIST, teacher, beta=0.0)(batch_with(student))
    nothing.backward()
    assert nothing.item() == 0 and student.grad is not None and not student.grad.any()


def test_gradcheck_and_descent_to_a_shift_of_the_teacher():
    teacher = torch.randn(6, 4, dtype=torch.float64)
    student = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    objective = built(DIST, teacher)
    assert torch.autograd.gradcheck(lambda z: objective(batch_with(z)), student)
    optimizer = torch.optim.Adam([student], lr=0.1)
    first = objective(batch_with(student)).item()
    for _ in range(100):
        optimizer.zero_grad()
        objective(batch_with(student)).backward()
        optimizer.step()
    assert objective(batch_with(student)).item() < 0.02 * first


def test_constant_and_huge_logits_are_finite():
    student = torch.tensor([[1.0, 1.0, 1.0], [1e4, -1e4, 0.0], [0.0, 1e4, 0.0]], requires_grad=True)
    value = built(DIST, torch.randn(3, 3))(batch_with(student))
    value.backward()
    assert value.isfinite() and value > 0 and student.grad.isfinite().all()


def test_two_classes_are_taught_within_the_class_and_a_warning_says_so(caplog):
    student, teacher = torch.randn(6, 2, requires_grad=True), torch.randn(6, 2)
    logger = logging.getLogger("hf_transfer.objectives.distillation.dist")
    logger.addHandler(caplog.handler)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        objective = built(DIST, teacher)
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(level)
    assert "only the part within each class" in caplog.text
    objective(batch_with(student)).backward()
    assert student.grad.abs().sum() > 1e-3, "the part within a class is silent"


def test_two_classes_without_that_part_are_refused():
    with pytest.raises(ValueError, match="two classes with `gamma=0`.*no gradient.*Give a positive `gamma`"):
        built(DIST, torch.zeros(2, 2), gamma=0.0)


@pytest.mark.parametrize("options", [{"beta": -1.0}, {"gamma": -1.0}, {"beta": 0.0, "gamma": 0.0}])
def test_weights_that_teach_nothing_are_refused(options):
    with pytest.raises(ValueError, match="leave nothing to learn, or reward disagreement.*Give numbers"):
        DIST(tiny_bert(), **options)


def test_describes_itself():
    objective = DIST(tiny_bert(), beta=2.0, gamma=2.0, rows="unlabelled")
    assert DIST(**objective.config()).config() == objective.config()
