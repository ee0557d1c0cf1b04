"""SP on features and on mapped hidden states, against the activations put through the formula."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from hf_transfer import TransferBatch, attach
from hf_transfer.functional.relations import similarity_differences
from hf_transfer.objectives.distillation.similarity_preserving import SimilarityPreserving
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def attached(student, teacher, **options):
    objective = SimilarityPreserving(teacher, **options)
    attachment = attach(student, [objective])
    student.training = True  # objectives run; dropout and BatchNorm stay as they are
    return objective, attachment


def states_of(model, batch):
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "domain")}
    with torch.no_grad():
        return model(**inputs, output_hidden_states=True).hidden_states


def naive(s, t):
    """From single inner products, in float64."""
    s, t, count, total = s.double(), t.double(), len(s), 0.0
    for i in range(count):
        g, h = (torch.stack([side[i] @ side[j] for j in range(count)]) for side in (s, t))
        total += (g / g.norm() - h / h.norm()).square().sum().item()
    return total / count**2


def averaged(states, mask):
    return torch.stack([row[kept.bool()].mean(0) for row, kept in zip(states, mask, strict=True)])


def test_features_by_default():
    student, teacher = tiny_bert(**QUIET).eval(), tiny_bert(hidden_size=32, num_labels=5, **QUIET).eval()
    batch = batch_for(student)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        s, t = (model.bert(**inputs).pooler_output for model in (student, teacher))
    objective, attachment = attached(student, teacher)
    student(**batch)
    assert attachment.terms["similarity_preserving"].item() == pytest.approx(naive(s, t), rel=1e-4)
    assert not list(objective.parameters()) and objective.hidden_states == ()


@pytest.mark.parametrize(("layers", "pairs"), [("last", {3: 4}), ({0: 1, -1: 2}, {1: 2, 3: 3}), ("first", None)])
def test_hidden_states_of_text_are_averaged_over_the_tokens_that_count(layers, pairs):
    student = tiny_bert(**QUIET).eval()
    teacher = tiny_bert(hidden_size=32, num_hidden_layers=4, **QUIET).eval()
    batch = batch_for(student)
    ours, theirs = states_of(student, batch), states_of(teacher, batch)
    mask = batch["attention_mask"]
    pairs = pairs or {1: 1, 2: 2, 3: 3}
    expected = sum(naive(averaged(ours[s], mask), averaged(theirs[t], mask)) for s, t in pairs.items())
    _, attachment = attached(student, teacher, layers=layers)
    student(**batch)
    assert attachment.terms["similarity_preserving"].item() == pytest.approx(expected, rel=1e-4)


def test_maps_of_images_are_one_row_each():
    student, teacher = tiny_resnet().eval(), tiny_resnet(embedding_size=16, hidden_sizes=[16, 24]).eval()
    batch = batch_for(student)
    expected = naive(states_of(student, batch)[-1].flatten(1), states_of(teacher, batch)[-1].flatten(1))
    _, attachment = attached(student, teacher, layers="last")
    student(**batch)
    assert attachment.terms["similarity_preserving"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("layers", [None, "last", "uniform"])
@pytest.mark.parametrize("kind", TINY)
def test_is_exactly_zero_when_the_student_is_the_teacher(kind, layers):
    student = TINY[kind]().eval()
    _, attachment = attached(student, student, layers=layers)
    student(**batch_for(student))
    assert attachment.terms["similarity_preserving"].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", ["bert", "resnet", "gpt2"])
@pytest.mark.parametrize("adapted", [False, True])
def test_the_gradient_reaches_the_student_alone(kind, adapted):
    teacher, student = TINY[kind](), TINY[kind]()
    if adapted:
        targets = r".*(query|q_proj|c_attn|convolution)"
        student = lora(student, targets, **({"fan_in_fan_out": True} if kind == "gpt2" else {}))
    objective, _ = attached(student.train(), teacher, layers="uniform")
    student(**batch_for(student, labelled=False)).loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in student.parameters())
    assert all(p.grad is None for p in (*teacher.parameters(), *objective.teacher.model.parameters()))


@pytest.mark.parametrize("layers", [None, "uniform"])
def test_padding_has_no_influence(layers):
    student, teacher = tiny_token_bert(**QUIET).eval(), tiny_token_bert(hidden_size=32, **QUIET).eval()
    _, attachment = attached(student, teacher, layers=layers)
    batch = batch_for(student)
    values = []
    for more in (0, 3):
        student(
            input_ids=pad(batch["input_ids"], (0, more), value=7),
            attention_mask=pad(batch["attention_mask"], (0, more)),
            labels=pad(batch["labels"], (0, more), value=-100),
        )
        values.append(attachment.terms["similarity_preserving"])
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-8)
    assert values[0] > 1e-6


def test_a_teacher_of_another_architecture_through_its_hidden_states():
    student, teacher = tiny_vit(), tiny_resnet()
    objective, attachment = attached(student.train(), teacher, layers={-1: -1})
    student(**batch_for(student)).loss.backward()
    assert attachment.terms["similarity_preserving"] > 0


def test_a_layer_left_out_of_a_step_is_left_out():
    student = tiny_bert(**QUIET).eval()
    objective, attachment = attached(student, tiny_bert(**QUIET), layers="uniform")
    batch = batch_for(student)
    student(**batch)
    both = attachment.terms["similarity_preserving"]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    seen = dict(zip(objective.hidden_states, states_of(student, batch)[1:], strict=True))
    features = torch.zeros(4, 16, requires_grad=True)

    def term(states):
        mask = batch["attention_mask"]
        return objective(TransferBatch(features=features, inputs=inputs, attention_mask=mask, hidden_states=states))

    torch.testing.assert_close(term(seen), both)
    parts = [term({name: states}) for name, states in seen.items()]
    torch.testing.assert_close(sum(parts), both)
    nothing = term({})
    nothing.backward()
    assert nothing.item() == 0 and features.grad is not None


def test_descent_brings_the_similarities_of_the_teacher():
    torch.manual_seed(0)
    student, teacher = tiny_vit(), tiny_vit()
    _, attachment = attached(student.train(), teacher, weight=100.0)
    batch = batch_for(student, 8, labelled=False)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    values = []
    for _ in range(25):
        optimizer.zero_grad()
        student(**batch).loss.backward()
        optimizer.step()
        values.append(attachment.terms["similarity_preserving"].item())
    assert values[-1] < 0.3 * values[0]


def test_is_at_most_four_over_the_rows():
    s = torch.eye(3)
    assert similarity_differences(s, torch.cat([s[1:], s[:1]]) @ s).item() == 0  # the same relations
    for seed in range(20):
        torch.manual_seed(seed)
        assert similarity_differences(torch.randn(3, 2), torch.randn(3, 2)) <= 4 / 3


def test_describes_itself():
    objective = SimilarityPreserving(tiny_bert(), layers={0: 2})
    assert SimilarityPreserving(**objective.config()).config() == objective.config()
    assert "layers={0: 2}" in repr(objective)


def test_what_is_no_layer_map_is_refused():
    with pytest.raises(ValueError, match="no layer map.*Give one of"):
        SimilarityPreserving(tiny_bert(), layers="middle")
    with pytest.raises(TypeError, match=r"\[0, 1\].*not said.*Give pairs"):
        SimilarityPreserving(tiny_bert(), layers=[0, 1])
    with pytest.raises(ValueError, match="block 9 of the teacher.*no such hidden state.*from 0 to 2"):
        attach(tiny_bert(), [SimilarityPreserving(tiny_bert(), layers={0: 9})])
