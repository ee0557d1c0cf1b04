"""Features of student and teacher against loops, per token, of teachers without a head, and every refusal."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import BertModel

from hf_transfer import EmbeddingDistillation, ModelSpec, TransferBatch, attach
from hf_transfer.teacher.cached_teacher import CachedTeacher
from tests.models import TINY, batch_for, bert_config, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def naive(s, t, distance):
    s, t = [float(x) for x in s], [float(x) for x in t]
    if distance == "mse":
        return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)
    return 1 - sum(a * b for a, b in zip(s, t, strict=True)) / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))


def features_of(model, batch):
    with torch.no_grad():
        output = model.bert(batch["input_ids"], batch["attention_mask"])
    return (output.last_hidden_state if output.pooler_output is None else output.pooler_output).double()


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_value_against_loops(distance):
    torch.manual_seed(0)
    teacher, student = tiny_bert(hidden_size=24).eval(), tiny_bert(**QUIET).train()
    objective = EmbeddingDistillation(teacher, distance=distance)
    attachment = attach(student, [objective])
    batch = batch_for(student)
    student(**batch)
    layer = objective.feature_projection.double()
    with torch.no_grad():
        ours, theirs = layer(features_of(student, batch)), features_of(teacher, batch)
    expected = sum(naive(ours[row], theirs[row], distance) for row in range(4)) / 4
    assert attachment.terms["embedding_distillation"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_tokens_that_count(distance):
    torch.manual_seed(0)
    teacher, student = tiny_token_bert(hidden_size=24).eval(), tiny_token_bert(**QUIET).train()
    objective = EmbeddingDistillation(teacher, distance=distance)
    attachment = attach(student, [objective])
    batch = batch_for(student, labelled=False)  # labels are not read
    student(**batch)
    layer = objective.feature_projection.double()
    with torch.no_grad():
        ours, theirs = layer(features_of(student, batch)), features_of(teacher, batch)
    expected = 0.0
    for row in range(4):
        count = int(batch["attention_mask"][row].sum())
        expected += sum(naive(ours[row, k], theirs[row, k], distance) for k in range(count)) / count / 4
    assert attachment.terms["embedding_distillation"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("poison", [1e30, float("nan"), float("inf")])
def test_padding_of_tokens_may_hold_anything(poison):
    objective = EmbeddingDistillation(CachedTeacher(), teacher_width=4).build(ModelSpec(feature_dim=4, num_labels=3))
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    terms = []
    for fill in (0.0, poison):
        held = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).masked_fill(
            mask.eq(0)[..., None], fill
        )
        features = held.requires_grad_()
        batch = TransferBatch(
            features=features,
            logits=torch.zeros(2, 3, 3),
            labels=torch.full((2, 3), -100),
            attention_mask=mask,
            columns={"teacher_features": held.detach().flip(-1)},
        )
        term = objective(batch)
        term.backward()
        assert term > 0 and not features.grad[mask == 0].any()
        terms.append(term)
    assert torch.equal(*terms)


def test_zero_exactly_while_the_student_is_the_teacher():
    student = tiny_bert(**QUIET).train()
    for options in ({}, {"distance": "mse"}, {"projection": "none"}):
        with attach(student, [EmbeddingDistillation(student, **options)]) as attachment:
            student(**batch_for(student))
            assert attachment.terms["embedding_distillation"].item() == 0


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (tiny_bert, lambda: BertModel(bert_config(hidden_size=24))),
        (tiny_bert, lambda: BertModel(bert_config(hidden_size=24), add_pooling_layer=False)),
        (tiny_bert, TINY["llama"]),
        (tiny_vit, tiny_resnet),
        (lambda: tiny_resnet(num_labels=7), tiny_vit),  # classes do not matter
    ],
)
def test_across_architectures_and_heads(student, teacher):
    torch.manual_seed(0)
    student = student().train()
    objective = EmbeddingDistillation(teacher(), projection="always")
    attachment = attach(student, [objective])
    batch = batch_for(student)
    if "pixel_values" in batch:
        batch["pixel_values"] = torch.randn(4, 3, 8, 8)
    student(**batch).loss.backward()
    assert 0 < attachment.terms["embedding_distillation"] <= 2
    assert all(parameter.grad.any() for parameter in objective.parameters())


def test_student_comes_nearer():
    torch.manual_seed(0)
    student = tiny_bert(**QUIET).train()
    attachment = attach(student, [EmbeddingDistillation(tiny_bert(hidden_size=24))])
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    values = []
    for _ in range(15):
        student(**batch_for(student)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(attachment.terms["embedding_distillation"].item())
    assert values[-1] < 0.5 * values[0]


def test_refusals():
    teacher = tiny_bert(hidden_size=24)
    with pytest.raises(ValueError, match='`distance="dot"` is unknown'):
        EmbeddingDistillation(teacher, distance="dot")
    with pytest.raises(ValueError, match='`projection="mlp"` is unknown'):
        EmbeddingDistillation(teacher, projection="mlp")
    with pytest.raises(ValueError, match='16 wide and the teacher 24.*projection="none"'):
        attach(tiny_bert(), [EmbeddingDistillation(teacher, projection="none")])
    student = tiny_bert().train()
    with attach(student, [EmbeddingDistillation(teacher, teacher_width=20)]):
        with pytest.raises(ValueError, match="24 wide and 20 was read off it.*does not fit.*teacher_width=24"):
            student(**batch_for(student))
    with attach(student, [EmbeddingDistillation(tiny_token_bert())]):
        with pytest.raises(ValueError, match="one has them per token.*same kind of task"):
            student(**batch_for(student))
