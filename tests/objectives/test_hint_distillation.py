"""FitNets against loops over tokens, across architectures, what trains, what is saved, and every refusal."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertModel

from hf_transfer import HintDistillation, TransferArguments, TransferTrainer, attach
from hf_transfer.checkpoint import OBJECTIVES_NAME
from hf_transfer.teacher import Teacher
from tests.invariants.run import rows
from tests.models import TINY, batch_for, bert_config, lora, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def teacher_and_student(**options):
    torch.manual_seed(0)
    wide = {"hidden_size": 24, "num_hidden_layers": 6, **options}
    return tiny_bert(**wide, **QUIET).eval(), tiny_bert(**QUIET).train()


def hidden_states(model, batch):
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return [states.double() for states in model(**inputs, output_hidden_states=True).hidden_states]


def term(student, objective, batch):
    student(**batch)
    return student.transfer_objectives.attachment.terms[objective.name]


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_value_against_loops(distance):
    teacher, student = teacher_and_student()
    objective = HintDistillation(teacher, distance=distance)
    attach(student, [objective])
    batch = batch_for(student)
    found = term(student, objective, batch)
    ours, theirs = hidden_states(student, batch), hidden_states(teacher, batch)
    expected = 0.0
    for pair in range(3):  # hidden state i of 3 and 2i of 6, the embeddings being state 0
        layer = objective.projections[pair]
        weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
        for row in range(4):
            places = [place for place in range(6) if batch["attention_mask"][row, place]]
            for place in places:
                s = [float(weight[k] @ ours[pair + 1][row, place] + bias[k]) for k in range(24)]
                t = [float(value) for value in theirs[2 * (pair + 1)][row, place]]
                if distance == "mse":
                    value = sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / 24
                else:
                    product = sum(a * b for a, b in zip(s, t, strict=True))
                    value = 1 - product / (sum(a * a for a in s) * sum(b * b for b in t)) ** 0.5
                expected += value / len(places) / 4 / 3
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_zero_exactly_while_the_student_is_the_teacher():
    _, student = teacher_and_student()
    for options in ({}, {"projection": "always"}, {"distance": "cosine"}, {"normalize": True}):
        objective = HintDistillation(student, layers="uniform", **options)
        with attach(student, [objective]):
            found = term(student, objective, batch_for(student))
        assert found.item() == 0 if options != {"projection": "always"} else found < 1e-9


def test_padding_does_not_count():
    teacher, student = teacher_and_student()
    objective = HintDistillation(teacher)
    attach(student, [objective])
    batch = batch_for(student)
    expected = term(student, objective, batch)
    longer = dict(batch)
    for name, value in (("input_ids", 7), ("attention_mask", 0)):
        longer[name] = torch.cat([batch[name], torch.full((4, 3), value)], 1)
    torch.testing.assert_close(term(student, objective, longer), expected)
    other = dict(batch, input_ids=torch.where(batch["attention_mask"].bool(), batch["input_ids"], 9))
    torch.testing.assert_close(term(student, objective, other), expected)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (tiny_resnet, lambda: tiny_vit()),
        (lambda: tiny_resnet(num_labels=5), lambda: tiny_resnet(hidden_sizes=[12, 20], depths=[2, 2])),
        (tiny_vit, tiny_resnet),
        (TINY["gpt2"], TINY["llama"]),
        (TINY["llama"], lambda: TINY["gpt2"](n_inner=8)),
        (TINY["wav2vec2"], TINY["wav2vec2"]),
        (tiny_token_bert, lambda: tiny_bert(hidden_size=24)),
        (tiny_bert, lambda: BertModel(bert_config(hidden_size=24, num_hidden_layers=4))),
    ],
)
def test_across_architectures_and_heads(student, teacher):
    torch.manual_seed(0)
    student, objective = student().train(), HintDistillation(teacher())
    attachment = attach(student, [objective])
    batch = batch_for(student)
    if "pixel_values" in batch:
        batch["pixel_values"] = torch.randn(4, 3, 8, 8)
    student(**batch).loss.backward()
    assert attachment.terms["hint_distillation"] > 0
    assert all(parameter.grad.any() for parameter in objective.parameters())
    first = student.get_submodule(objective.hidden_states[0])
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in first.parameters())


def test_student_comes_nearer():
    teacher, student = teacher_and_student()
    objective = HintDistillation(teacher, weight=10.0)
    attachment = attach(student, [objective])
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    values = []
    for _ in range(25):
        student(**batch_for(student)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(attachment.terms["hint_distillation"].item())
    assert values[-1] < 0.7 * values[0]


def test_projections_train_and_are_saved_beside_the_model_only(tmp_path):
    teacher, student = teacher_and_student(hidden_size=18)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    objective = HintDistillation(teacher)
    arguments = TransferArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        save_steps=2,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer = TransferTrainer(student, args=arguments, train_dataset=rows(8, 0, True, False), objectives=[objective])
    start = [parameter.detach().clone() for parameter in objective.parameters()]
    trainer.train()
    assert len(start) == 6 and not any(map(torch.equal, start, objective.parameters()))
    checkpoint = tmp_path / "checkpoint-2"
    assert set(load_file(checkpoint / "model.safetensors")) == set(tiny_bert().state_dict())
    assert {key.partition(".")[2] for key in load_file(checkpoint / OBJECTIVES_NAME)} == {
        f"projections.{number}.{kind}" for number in range(3) for kind in ("weight", "bias")
    }
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_under_lora_and_autocast():
    teacher, student = teacher_and_student()
    student = lora(student, ["query", "value"], head="classifier")
    objective = HintDistillation(teacher)
    attachment = attach(student, [objective])
    with torch.autocast("cpu", torch.bfloat16):
        loss = student(**batch_for(student)).loss
    loss.backward()
    assert attachment.terms["hint_distillation"].dtype == torch.float32
    assert all(p.grad.isfinite().all() and p.grad.any() for p in objective.parameters())
    adapters = [p for name, p in student.named_parameters() if "lora_B" in name]
    assert adapters and any(p.grad.any() for p in adapters)


def test_stored_hidden_states_are_read_in_place_of_the_teacher():
    teacher, student = teacher_and_student()
    objective = HintDistillation(teacher, layers={0: 1, -1: -1})
    attach(student, [objective])
    batch = batch_for(student)
    expected = term(student, objective, batch)
    stored = hidden_states(teacher, batch)
    columns = {f"teacher_hidden.bert.encoder.layer.{number}": stored[number + 1].float() for number in (1, 5)}
    torch.testing.assert_close(term(student, objective, {**batch, **columns}), expected)
    changed = {name: value + 1 for name, value in columns.items()}
    assert term(student, objective, {**batch, **changed}) > expected


def test_projection_modes():
    teacher, student = teacher_and_student(hidden_size=16)
    with attach(student, [HintDistillation(teacher)]) as attachment:
        assert not list(attachment.objectives.parameters())
    objective = HintDistillation(teacher, projection="always", layers="last")
    with attach(student, [objective]):
        assert torch.equal(objective.projections[0].weight, torch.eye(16))  # starts as no projection
    with pytest.raises(ValueError, match='16 wide and the teacher 24.*projection="none".*AttentionTransfer'):
        attach(student, [HintDistillation(teacher_and_student()[0], projection="none")])


class _Doubled(nn.Module):
    """A layer whose output is not as wide as the last layer in it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return torch.cat([self.inner(*args, **kwargs)] * 2, -1)


def test_a_width_that_was_read_wrongly_is_found_at_the_first_batch():
    teacher, student = teacher_and_student()
    student.bert.pooler = _Doubled(student.bert.pooler)
    student.classifier = nn.Linear(32, 3)
    pairs = {"bert.pooler": "bert.pooler"}
    with attach(student, [HintDistillation(teacher, layers=pairs)]):
        with pytest.raises(ValueError, match=r"returned hidden states 32 wide.*not what was read.*widths=\{'bert.poo"):
            student(**batch_for(student))
    objective = HintDistillation(teacher, layers=pairs, widths={"bert.pooler": (32, 24)})
    with attach(student, [objective]) as attachment:
        student(**batch_for(student))
        assert attachment.terms["hint_distillation"] > 0


def test_refusals():
    teacher, student = teacher_and_student()
    with pytest.raises(ValueError, match='`distance="l3"` is unknown.*compared.*"mse" or "cosine"'):
        HintDistillation(teacher, distance="l3")
    with pytest.raises(ValueError, match='`projection="maybe"` is unknown.*learned layer.*"auto"'):
        HintDistillation(teacher, projection="maybe")
    with pytest.raises(ValueError, match='layers="middle" is no layer map'):
        HintDistillation(teacher, layers="middle")
    with pytest.raises(ValueError, match="block 6 of the teacher, which has 6"):
        attach(student, [HintDistillation(teacher, layers={0: 6})])
    with pytest.raises(ValueError, match="`widths` names elsewhere.*read by nobody.*Name some of bert.encoder"):
        attach(student, [HintDistillation(teacher, widths={"elsewhere": (16, 24)})])
    with pytest.raises(ValueError, match="no module of the teacher.*no hidden state.*Give a name"):
        attach(student, [HintDistillation(teacher, layers={0: "bert.encoder.layer.0.attend"})])
    with pytest.raises(ValueError):  # several teachers have no common hidden states
        attach(student, [HintDistillation(Teacher([teacher, copy.deepcopy(teacher)]))])
