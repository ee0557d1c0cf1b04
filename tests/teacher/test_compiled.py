"""A compiled student with a teacher that is not: the same loss and gradients as without compilation."""

from __future__ import annotations

import copy

import pytest
import torch

from hf_transfer import HintDistillation, LogitDistillation, Teacher, attach
from tests.models import batch_for, tiny_bert


# dynamo reads `.grad` of what is no leaf when it splits the graph around the teacher
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_is_eager_and_the_teacher_runs_once():
    torch.manual_seed(0)
    big = tiny_bert(num_hidden_layers=1, hidden_size=24)
    students = [tiny_bert(num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()]
    students.append(copy.deepcopy(students[0]))
    batch = {key: value for key, value in batch_for(big).items() if key != "domain"}
    forwards = []
    losses, gradients = [], []
    for student, compiled in zip(students, (False, True), strict=True):
        teacher = Teacher(big)
        teacher.model.register_forward_hook(lambda *_: forwards.append(1))
        torch.manual_seed(1)
        attach(student, [LogitDistillation(teacher), HintDistillation(teacher, layers="last")])
        model = torch.compile(student, backend="eager") if compiled else student
        loss = model(**batch).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append({key: parameter.grad for key, parameter in student.named_parameters()})
        assert len(forwards) == 1
        forwards.clear()
    torch.testing.assert_close(losses[1], losses[0])
    assert sum(gradient is not None for gradient in gradients[0].values()) > 10
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, msg=lambda text, key=key: f"{key}: {text}")
    torch._dynamo.reset()
