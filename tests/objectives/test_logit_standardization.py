"""LSKD against a loop, and what it is blind to."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer import LogitStandardization, attach
from tests.models import batch_for, tiny_bert, tiny_token_bert
from tests.objectives.prediction_checks import batch_with, built


def expected_term(student, teacher, temperature):
    total = 0.0
    for z, t in zip(student.tolist(), teacher.tolist(), strict=True):
        shares = []
        for values in (t, z):
            mean = sum(values) / len(values)
            deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
            powers = [math.exp((value - mean) / deviation / temperature) for value in values]
            shares.append([power / sum(powers) for power in powers])
        total += sum(q * math.log(q / p) for q, p in zip(*shares, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_against_a_loop(temperature):
    student, teacher = torch.randn(4, 5, dtype=torch.float64), 3 * torch.randn(4, 5, dtype=torch.float64)
    value = built(LogitStandardization, teacher, temperature=temperature)(batch_with(student))
    assert value.item() == pytest.approx(expected_term(student, teacher, temperature), rel=1e-6)


def test_is_blind_to_shift_and_scale_and_to_nothing_else():
    teacher = torch.randn(4, 5, dtype=torch.float64)
    objective = built(LogitStandardization, teacher)
    assert objective(batch_with(0.01 * teacher - 3)).item() == pytest.approx(0, abs=1e-9)
    assert objective(batch_with(-teacher)).item() > 0.1, "the order is turned round"
    assert objective(batch_with(teacher**3)).item() > 1e-3, "the distances differ"


def test_the_gradient_has_no_part_along_shift_and_scale():
    student = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    objective = built(LogitStandardization, torch.randn(4, 5, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda z: objective(batch_with(z)), student)
    (gradient,) = torch.autograd.grad(objective(batch_with(student)), student)
    centred = student.detach() - student.detach().mean(-1, keepdim=True)
    assert gradient.norm() > 1e-3
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close((gradient * centred).sum(-1), torch.zeros(4).double(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("divergence", ["jsd", "mse"])
def test_other_divergences_see_standardised_logits(divergence):
    teacher = torch.randn(4, 5)
    objective = built(LogitStandardization, teacher, divergence=divergence)
    assert objective(batch_with(100 * teacher + 1)).item() == pytest.approx(0, abs=1e-5)
    assert objective(batch_with(torch.randn(4, 5))) > 0.01


def test_constant_and_huge_logits_are_finite():
    student = torch.tensor([[1.0, 1.0, 1.0], [1e4, -1e4, 0.0]], requires_grad=True)
    value = built(LogitStandardization, torch.tensor([[1e4, 0.0, -1e4], [2.0, 2.0, 2.0]]))(batch_with(student))
    value.backward()
    assert value.isfinite() and value > 0.01 and student.grad.isfinite().all()


def test_tokens_in_a_model_are_masked():
    teacher, student = tiny_token_bert(), tiny_token_bert().train()
    torch.nn.init.normal_(teacher.classifier.weight)
    student.eval().training = True
    with attach(student, [LogitStandardization(teacher, temperature=1.0)]) as attachment:
        batch = batch_for(student)
        logits = student(**batch).logits.detach().double()
        term = attachment.terms["logit_standardization"].item()
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        said = teacher.eval()(**inputs).logits.double()
    kept = batch["attention_mask"].bool()
    assert term == pytest.approx(expected_term(logits[kept], said[kept], 1.0), rel=1e-3)


def test_defaults_are_those_of_the_paper():
    objective = LogitStandardization(tiny_bert())
    assert (objective.temperature, objective.weight, objective.divergence) == (2.0, 9.0, "kl")
    assert LogitStandardization(**objective.config()).config() == objective.config()
