"""DKD in a batch: against a loop, which rows have a target, and language models."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer import DecoupledDistillation, LogitDistillation, attach
from hf_transfer.schedules import warmup
from tests.models import batch_for, tiny_bert, tiny_token_bert
from tests.objectives.prediction_checks import batch_with, built


def softmax(values, temperature):
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def expected_row(student, teacher, label, alpha, beta, temperature):
    q, p = (softmax(logits, temperature) for logits in (teacher, student))
    target = kl([q[label], 1 - q[label]], [p[label], 1 - p[label]])
    others = [c for c in range(len(q)) if c != label]
    rest = kl(*([x[c] / (1 - x[label]) for c in others] for x in (q, p)))
    return temperature**2 * (alpha * target + beta * rest)


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (0.3, 2.0, 1.0), (0.0, 1.0, 2.0)])
def test_labelled_rows_against_a_loop(alpha, beta, temperature):
    student, teacher = torch.randn(5, 4, dtype=torch.float64), 2 * torch.randn(5, 4, dtype=torch.float64)
    labels = [1, -100, 3, 0, -100]
    objective = built(DecoupledDistillation, teacher, alpha=alpha, beta=beta, temperature=temperature)
    expected = sum(
        expected_row(student[row].tolist(), teacher[row].tolist(), labels[row], alpha, beta, temperature)
        for row in (0, 2, 3)
    )
    assert objective(batch_with(student, labels)).item() == pytest.approx(expected / 3, rel=1e-10)


def test_rows_without_a_label_get_no_gradient():
    student = torch.randn(4, 3, requires_grad=True)
    objective = built(DecoupledDistillation, torch.randn(4, 3))
    objective(batch_with(student, [0, -100, 2, -100])).backward()
    assert student.grad[[0, 2]].any(-1).all() and not student.grad[[1, 3]].any()
    student.grad = None
    value = objective(batch_with(student, [-100] * 4))
    value.backward()
    assert value.item() == 0 and not student.grad.any()


def test_the_teacher_can_name_the_target_of_unlabelled_rows():
    student, teacher = torch.randn(3, 4, dtype=torch.float64), 2 * torch.randn(3, 4, dtype=torch.float64)
    objective = built(DecoupledDistillation, teacher, target="teacher")
    labels = [0, teacher[1].argmax().item(), teacher[2].argmax().item()]
    expected = sum(
        expected_row(student[row].tolist(), teacher[row].tolist(), labels[row], 1.0, 8.0, 4.0) for row in range(3)
    )
    assert objective(batch_with(student, [0, -100, -100])).item() == pytest.approx(expected / 3, rel=1e-10)


def test_only_rows_of_the_domains_count():
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    domain = torch.tensor([0, 1, 0, 1])
    objective = built(DecoupledDistillation, teacher, domains=(0,))
    value = objective(batch_with(student, [0, 1, 2, 0], domain=domain))
    alone = built(DecoupledDistillation, teacher[[0, 2]])(batch_with(student[[0, 2]], [0, 2]))
    torch.testing.assert_close(value, alone)


def test_two_classes_are_plain_distillation():
    student, teacher = torch.randn(6, 2), torch.randn(6, 2)
    batch = batch_with(student, [0, 1, 1, 0, 1, 1])
    found = [built(cls, teacher, temperature=3.0)(batch) for cls in (DecoupledDistillation, LogitDistillation)]
    torch.testing.assert_close(*found)


def test_tokens_with_a_label_in_a_model():
    teacher, student = tiny_token_bert(), tiny_token_bert()
    torch.nn.init.normal_(teacher.classifier.weight)
    batch = batch_for(student)
    batch["labels"][:, 0] = -100
    student.eval().training = True
    with attach(student, [DecoupledDistillation(teacher)]) as attachment:
        logits = student(**batch).logits.detach().double()
        term = attachment.terms["decoupled_distillation"].item()
    with torch.no_grad():
        said = teacher.eval()(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits.double()
    kept = [(row, place) for row in range(4) for place in range(1, 6)]
    expected = sum(
        expected_row(logits[i].tolist(), said[i].tolist(), batch["labels"][i].item(), 1.0, 8.0, 4.0) for i in kept
    )
    assert term == pytest.approx(expected / len(kept), rel=1e-3)


def test_the_warm_up_that_is_suggested():
    """Close to the paper's straight line over a twelfth of the training."""
    schedule = warmup(gamma=24.0)
    for progress in (0.0, 0.02, 0.04, 0.2, 1.0):
        assert float(schedule(progress)) == pytest.approx(min(12 * progress, 1.0), abs=0.05)


def test_describes_itself():
    objective = DecoupledDistillation(tiny_bert(), beta=2.0, target="teacher")
    assert DecoupledDistillation(**objective.config()).config() == objective.config()


@pytest.mark.parametrize("options", [{"alpha": -1.0}, {"beta": -1.0}, {"alpha": 0.0, "beta": 0.0}])
def test_weights_that_teach_nothing_are_refused(options):
    with pytest.raises(ValueError, match="leave nothing to learn, or reward being wrong.*Give numbers.*1.0 and 8.0"):
        DecoupledDistillation(tiny_bert(), **options)


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="`target='student'` is no choice.*Give one of 'label', 'teacher'"):
        DecoupledDistillation(tiny_bert(), target="student")
