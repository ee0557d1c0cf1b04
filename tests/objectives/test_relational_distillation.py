"""RKD in the forward of models against their features put through the formula, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import TransferBatch, attach
from hf_transfer.functional.relations import angle_differences, distance_differences
from hf_transfer.objectives.distillation.relational_distillation import RelationalDistillation
from hf_transfer.teacher import Teacher
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_gpt2, tiny_resnet, tiny_token_bert, tiny_vit


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def attached(student, teacher, **options):
    objective = RelationalDistillation(teacher, **options)
    attachment = attach(student, [objective])
    student.training = True  # objectives run; dropout and BatchNorm stay as they are
    return objective, attachment


def inputs_of(batch):
    return {name: value for name, value in batch.items() if name not in ("labels", "domain")}


@pytest.mark.parametrize("options", [{}, {"distance_weight": 0.0}, {"angle_weight": 0.0}, {"angle_weight": 7.0}])
def test_value_is_the_weighted_sum_of_both_for_features_of_another_width(options):
    student, teacher = tiny_bert(**QUIET).eval(), tiny_bert(hidden_size=32, num_labels=5, **QUIET).eval()
    batch = batch_for(student)
    with torch.no_grad():
        s, t = (model.bert(**inputs_of(batch)).pooler_output for model in (student, teacher))
    weights = {"distance_weight": 1.0, "angle_weight": 2.0, **options}
    expected = weights["distance_weight"] * distance_differences(s, t)
    expected = expected + weights["angle_weight"] * angle_differences(s, t)
    objective, attachment = attached(student, teacher, **options)
    student(**batch)
    torch.testing.assert_close(attachment.terms["relational_distillation"], expected)
    assert expected > 1e-4 and not list(objective.parameters())


@pytest.mark.parametrize("kind", TINY)
def test_is_exactly_zero_when_the_student_is_the_teacher(kind):
    student = TINY[kind]().eval()
    _, attachment = attached(student, student)
    student(**batch_for(student))
    assert attachment.terms["relational_distillation"].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("adapted", [False, True])
def test_the_gradient_reaches_the_student_alone(kind, adapted):
    teacher, student = TINY[kind](), TINY[kind]()
    if adapted:
        targets = r".*(query|q_proj|c_attn|convolution)"
        student = lora(student, targets, **({"fan_in_fan_out": True} if kind == "gpt2" else {}))
    objective, _ = attached(student.train(), teacher)
    student(**batch_for(student, labelled=False)).loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in student.parameters())
    assert all(p.grad is None for p in (*teacher.parameters(), *objective.teacher.model.parameters()))
    assert not any("teacher" in name for name in student.state_dict())


def test_tokens_are_averaged_on_both_sides_and_padding_is_not():
    student, teacher = tiny_token_bert(**QUIET).eval(), tiny_token_bert(hidden_size=32, **QUIET).eval()
    _, attachment = attached(student, teacher)
    batch = batch_for(student)
    values = []
    for width in (6, 9):
        longer = {name: torch.nn.functional.pad(batch[name], (0, width - 6)) for name in ("input_ids",)}
        longer["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (0, width - 6))
        longer["labels"] = torch.nn.functional.pad(batch["labels"], (0, width - 6), value=-100)
        student(**longer)
        values.append(attachment.terms["relational_distillation"])
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-7)
    assert values[0] > 1e-5


def test_a_teacher_of_another_architecture():
    student, teacher = tiny_bert(), tiny_gpt2()
    _, attachment = attached(student.train(), teacher)
    student(**batch_for(student)).loss.backward()
    assert attachment.terms["relational_distillation"] > 0


def test_descent_brings_the_relations_of_the_teacher():
    torch.manual_seed(0)
    student, teacher = tiny_vit(), tiny_vit()
    _, attachment = attached(student.train(), teacher)
    batch = batch_for(student, 8, labelled=False)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    values = []
    for _ in range(25):
        optimizer.zero_grad()
        student(**batch).loss.backward()
        optimizer.step()
        values.append(attachment.terms["relational_distillation"].item())
    assert values[-1] < 0.3 * values[0]


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    student = tiny_vit().train()
    _, attachment = attached(student, tiny_resnet())
    student(**batch_for(student, rows)).loss.backward()
    value = attachment.terms["relational_distillation"]
    # two rows are one distance, which is its own mean
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())


def test_one_teacher_for_two_objectives_runs_once():
    teacher, student = Teacher(tiny_vit()), tiny_vit().train()
    objective = RelationalDistillation(teacher, distance_weight=0.0)
    attach(student, [RelationalDistillation(teacher, angle_weight=0.0), objective])
    calls = []
    teacher.model.register_forward_hook(lambda *args: calls.append(1))
    student(**batch_for(student))
    assert calls == [1]
    objective(TransferBatch(features=torch.randn(4, 16), inputs=inputs_of(batch_for(student))))
    assert calls == [1, 1], "another batch is looked at anew"


def test_describes_itself():
    objective = RelationalDistillation(tiny_bert(), angle_weight=50.0, distance_weight=25.0)
    assert RelationalDistillation(**objective.config()).config() == objective.config()
    assert "angle_weight=50.0" in repr(objective)


@pytest.mark.parametrize("name", ["distance_weight", "angle_weight"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_negative_weight_is_refused(name, value):
    with pytest.raises(
        ValueError, match=f"`{name}={value}`.*driven away.*the paper's {1.0 if 'dist' in name else 2.0}"
    ):
        RelationalDistillation(tiny_bert(), **{name: value})


def test_two_zeros_are_refused():
    with pytest.raises(ValueError, match="both zero.*always be zero.*1.0 and 2.0"):
        RelationalDistillation(tiny_bert(), distance_weight=0.0, angle_weight=0)
