"""PKD against loops, which vector stands for a row in which architecture, and every refusal."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    SwinConfig,
    SwinForImageClassification,
)

from hf_transfer import PatientDistillation, attach
from hf_transfer.anatomy import anatomy
from hf_transfer.objectives.distillation.patient_distillation import usual_position
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_gpt2, tiny_llama, tiny_resnet, tiny_vit


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def unit(vector):
    length = math.sqrt(sum(float(value) ** 2 for value in vector))
    return [float(value) / length for value in vector]


def squared(s, t):
    return sum((a - b) ** 2 for a, b in zip(unit(s), unit(t), strict=True))


def states_of(model, batch):
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "domain")}
    with torch.no_grad():
        return [states.double() for states in model(**inputs, output_hidden_states=True).hidden_states]


def test_value_against_loops():
    torch.manual_seed(0)
    teacher, student = tiny_bert(num_hidden_layers=6, **QUIET).eval(), tiny_bert(**QUIET).train()
    attachment = attach(student, [PatientDistillation(teacher)])
    batch = batch_for(student)
    student(**batch)
    ours, theirs = states_of(student, batch), states_of(teacher, batch)
    values = [squared(ours[i][row, 0], theirs[2 * i][row, 0]) for i in (1, 2) for row in range(4)]
    assert attachment.terms["patient_distillation"].item() == pytest.approx(sum(values) / 8, rel=1e-5)
    assert not list(attachment.objectives.parameters())  # equal widths, as in the paper


def test_value_through_projections():
    torch.manual_seed(0)
    teacher, student = tiny_bert(hidden_size=24).eval(), tiny_bert(**QUIET).train()
    objective = PatientDistillation(teacher, layers={0: 1})
    attachment = attach(student, [objective])
    batch = batch_for(student)
    student(**batch)
    layer = objective.projections[0].double()
    ours, theirs = states_of(student, batch)[1], states_of(teacher, batch)[2]
    with torch.no_grad():
        values = [squared(layer(ours[row, 0]), theirs[row, 0]) for row in range(4)]
    assert attachment.terms["patient_distillation"].item() == pytest.approx(sum(values) / 4, rel=1e-5)


def test_decoders_are_read_at_the_last_token():
    torch.manual_seed(0)
    teacher, student = tiny_llama().eval(), tiny_llama().train()
    attachment = attach(student, [PatientDistillation(teacher, layers={0: 0})])
    batch = batch_for(student)
    student(**batch)
    ours, theirs = states_of(student, batch)[1], states_of(teacher, batch)[1]
    last = batch["attention_mask"].sum(1) - 1
    assert last.tolist() == [5, 3, 5, 3]
    expected = sum(squared(ours[row, last[row]], theirs[row, last[row]]) for row in range(4)) / 4
    assert attachment.terms["patient_distillation"].item() == pytest.approx(expected, rel=1e-5)


def test_zero_exactly_while_the_student_is_the_teacher_and_nearer_after_steps():
    torch.manual_seed(0)
    student = tiny_bert(**QUIET).train()
    attachment = attach(student, [PatientDistillation(student, weight=10.0)])
    student(**batch_for(student))
    assert attachment.terms["patient_distillation"].item() == 0
    with torch.no_grad():
        for parameter in student.bert.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    values = []
    for _ in range(15):
        student(**batch_for(student)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(attachment.terms["patient_distillation"].item())
    assert 0 < values[-1] < 0.7 * values[0]


def test_padding_does_not_count():
    torch.manual_seed(0)
    student = tiny_bert(**QUIET).train()
    for position in ("first", "last", "mean"):
        with attach(student, [PatientDistillation(tiny_bert(hidden_size=24), position=position)]) as attachment:
            batch = batch_for(student)
            student(**batch)
            expected = attachment.terms["patient_distillation"]
            longer = {name: value for name, value in batch.items()}
            longer["input_ids"] = torch.cat([batch["input_ids"], torch.full((4, 3), 7)], 1)
            longer["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (0, 3))
            student(**longer)
            torch.testing.assert_close(attachment.terms["patient_distillation"], expected)


def test_rows_without_tokens_are_an_exact_zero_with_a_graph():
    student = tiny_bert(**QUIET).train()
    objective = PatientDistillation(tiny_bert(hidden_size=24))
    attachment = attach(student, [objective])
    batch = batch_for(student)
    batch["attention_mask"] = torch.zeros_like(batch["attention_mask"])
    student(**batch).loss.backward()
    assert attachment.terms["patient_distillation"].item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())


def _bart():
    sizes = {"d_model": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 9}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    return BartForSequenceClassification(BartConfig(**sizes, **layers, max_position_embeddings=8))


def _swin():
    return SwinForImageClassification(SwinConfig(image_size=16, embed_dim=8, depths=[1], num_heads=[2]))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (tiny_bert, "first"),
        (lambda: lora(tiny_bert(), ["query"], head="classifier"), "first"),
        (tiny_gpt2, "last"),
        (tiny_llama, "last"),
        (_bart, "last"),  # its decoder, which it classifies by
        (tiny_vit, "first"),
        (tiny_resnet, "mean"),
        (
            lambda: SwinForImageClassification(SwinConfig(image_size=16, embed_dim=8, depths=[1], num_heads=[2])),
            "mean",
        ),
        (TINY["wav2vec2"], "mean"),
        (TINY["token_bert"], "first"),
    ],
)
def test_what_stands_for_a_row(make, expected):
    model = make()
    assert usual_position(model, anatomy(model).blocks[-1]) == expected


def test_decoder_student_of_an_encoder():
    student = tiny_gpt2().train()
    objective = PatientDistillation(tiny_bert(hidden_size=24), layers="uniform")
    attachment = attach(student, [objective])
    assert (objective._position, objective._teacher_position) == ("last", "first")
    student(**batch_for(student)).loss.backward()
    assert 0 < attachment.terms["patient_distillation"] <= 4


def test_refusals():
    with pytest.raises(ValueError, match='`position="cls"` is unknown.*stands for a row.*"first"'):
        PatientDistillation(tiny_bert(), position="cls")
    config = AlbertConfig(vocab_size=9, embedding_size=8, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(ValueError, match='layers="skip" leaves out the last blocks.*no pair is left.*layers="last"'):
        attach(AlbertForSequenceClassification(config), [PatientDistillation(tiny_bert())])
