"""CRD in the forward of models against a loop over a memory of single rows, resume, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset

from hf_transfer import ModelSpec, TransferArguments, TransferBatch, TransferTrainer, attach
from hf_transfer.data.row_index import with_index
from hf_transfer.objectives.distillation.contrastive_representation import ContrastiveRepresentation
from hf_transfer.objectives.distillation.memory_bank import EMPTY
from hf_transfer.objectives.regularization.r_drop import RDrop
from tests.invariants.run import rows
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_token_bert, tiny_vit


class Fixed:
    """A teacher that says of row `i` what a table says, for the formula alone."""

    columns = ()

    def __init__(self, table):
        self.table = table
        self.anatomy = type("Anatomy", (), {"feature_dim": table.shape[1]})

    def bind(self, spec, *, logits):
        pass

    def __call__(self, batch):
        return type("Output", (), {"features": self.table[batch.inputs["row"]]})


def built(width=4, rows=40, **options):
    torch.manual_seed(0)
    teacher = tiny_bert()
    options = {"embed_dim": 3, "bank_size": 16, "temperature": 0.3, **options}
    objective = ContrastiveRepresentation(teacher, **options)
    objective.teacher = Fixed(torch.randn(rows, 6, dtype=torch.float64))
    return objective.build(ModelSpec(feature_dim=width, num_labels=3)).double()


def batch(index, labels=None, seed=0, width=4):
    generator = torch.Generator().manual_seed(seed)
    index = torch.tensor(index)
    features = torch.randn(len(index), width, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = None if labels is None else torch.tensor(labels)
    return TransferBatch(features=features, labels=labels, inputs={"row": index}, columns={"index": index})


def direction(x):
    return x / x.norm()


def naive(objective, data, memory):
    """The term, and what it makes of the memory: a dictionary from slot to (row, label, student, teacher)."""
    index = data.columns["index"].tolist()
    labels = [-100] * len(index) if data.labels is None else data.labels.tolist()
    with torch.no_grad():
        students = [direction(objective.student_projection(x)) for x in data.features]
        teachers = [direction(objective.teacher_projection(objective.teacher.table[i])) for i in index]
    m, before = objective.momentum, dict(memory)
    for row, label, s, t in zip(index, labels, students, teachers, strict=True):
        old = before.get(row % objective.bank_size)
        if old is not None and old[0] == row:
            s, t = direction(m * old[2] + (1 - m) * s), direction(m * old[3] + (1 - m) * t)
        memory[row % objective.bank_size] = (row, label, s, t)
    total = 0.0
    for row, label, s, t in zip(index, labels, students, teachers, strict=True):
        positive = math.exp((s @ t).item() / objective.temperature)
        keys = [
            (s_key, t_key)
            for other, c, s_key, t_key in memory.values()
            if other != row and not (objective.different_class and c == label and c != -100)
        ]
        for own, place in ((s, 1), (t, 0)):
            negatives = sum(math.exp((own @ key[place]).item() / objective.temperature) for key in keys)
            total -= math.log(positive / (positive + negatives))
    return total / len(index)


@pytest.mark.parametrize("different_class", [True, False])
@pytest.mark.parametrize("bank_size", [2, 3, 5, 64])
def test_value_against_loops_as_the_memory_fills_and_moves(bank_size, different_class):
    objective, memory = built(bank_size=bank_size, different_class=different_class), {}
    for step in range(12):
        index = [(7 * step + 3 * i) % 11 for i in range(4)]
        data = batch(index, [(i * 5) % 3 if i % 4 else -100 for i in index], seed=step)
        expected = naive(objective, data, memory)
        assert objective(data).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert (objective.bank.owner != EMPTY).sum() == len(memory) == min(bank_size, 11)


def test_without_labels_all_other_rows_are_negatives():
    objective, memory = built(), {}
    for step in range(3):
        data = batch([step, step + 5, step + 2], seed=step)
        assert objective(data).item() == pytest.approx(naive(objective, data, memory), rel=1e-6)


def test_gradient_is_that_of_the_rows_with_the_memory_held_fixed():
    objective = built()
    objective(batch([0, 1, 2, 3], [0, 1, 2, 0]))
    data = batch([4, 1], [0, 1], seed=1)
    value = objective(data)
    (gradient,) = torch.autograd.grad(value, data.features)
    assert gradient.abs().sum() > 0
    for i in range(2):
        for d in range(4):
            values = []
            for sign in (1, -1):
                features = data.features.detach().clone()
                features[i, d] += sign * 1e-6
                with torch.no_grad():  # a look leaves the memory alone
                    moved = TransferBatch(features, labels=data.labels, inputs=data.inputs, columns=data.columns)
                    values.append(objective(moved).item())
            assert gradient[i, d].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_descent_tells_rows_apart_by_what_the_teacher_sees():
    objective = built(temperature=0.2)
    features = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
    index = torch.arange(8)
    optimizer = torch.optim.Adam([features, *objective.parameters()], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        objective(TransferBatch(features, inputs={"row": index}, columns={"index": index})).backward()
        optimizer.step()
    with torch.no_grad():
        s = objective.student_projection(features)
        t = objective.teacher_projection(objective.teacher.table[index])
        similarities = torch.nn.functional.normalize(s) @ torch.nn.functional.normalize(t).T
    assert torch.equal(similarities.argmax(1), index)


def test_a_look_without_gradients_changes_nothing():
    objective = built()
    with torch.no_grad():
        assert objective(batch([0, 1])).item() == 0
    assert (objective.bank.owner == EMPTY).all()


@pytest.mark.parametrize("count", [1, 2])
def test_the_very_first_rows(count):
    objective = built()
    data = batch(list(range(count)), [1] * count)  # of one class: no negatives
    value = objective(data)
    value.backward()
    assert value.item() == 0 and data.features.grad is not None and not data.features.grad.any()
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())


def test_a_thousand_degenerate_batches_are_finite():
    objective = built(bank_size=3).float()
    objective.teacher.table = objective.teacher.table.float()
    objective.teacher.table[3:6] = 0
    objective.teacher.table[6:9] = 1e4
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        count = int(torch.randint(1, 5, (), generator=generator))
        index = torch.randint(0, 9, (count,), generator=generator)
        labels = torch.tensor([-100, 0, 1])[torch.randint(0, 3, (count,), generator=generator)]
        scale = 10.0 ** torch.randint(-6, 5, (), generator=generator)
        features = (scale * torch.randn(count, 4, generator=generator)).round(decimals=3).requires_grad_()
        value = objective(TransferBatch(features, labels=labels, inputs={"row": index}, columns={"index": index}))
        value.backward()
        assert value.isfinite() and value >= 0 and features.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in objective.parameters())
    assert all(b.isfinite().all() for b in (objective.bank.student, objective.bank.teacher))


# in the forward of models


def indexed(model, rows=6, seed=0, **options):
    return {**batch_for(model, rows, seed=seed, **options), "index": torch.arange(rows) + seed}


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("adapted", [False, True])
def test_student_and_maps_train_and_the_teacher_does_not(kind, adapted):
    teacher, student = TINY[kind](), TINY[kind]()
    if adapted:
        targets = r".*(query|q_proj|c_attn|convolution)"
        student = lora(student, targets, **({"fan_in_fan_out": True} if kind == "gpt2" else {}))
    objective = ContrastiveRepresentation(teacher, bank_size=32, embed_dim=4)
    attachment = attach(student.train(), [objective])
    student(**indexed(student, labelled=False)).loss.backward()
    assert attachment.terms["contrastive_representation"] > 0
    assert all(p.grad is not None and p.grad.any() for p in objective.student_projection.parameters())
    assert all(p.grad is not None and p.grad.any() for p in objective.teacher_projection.parameters())
    trained = [p for n, p in student.named_parameters() if p.requires_grad and "transfer_objectives" not in n]
    assert any(p.grad is not None and p.grad.any() for p in trained)
    assert all(p.grad is None for p in objective.teacher.model.parameters())
    assert objective.bank.owner[:6].tolist() == [0, 1, 2, 3, 4, 5]


def test_bfloat16():
    student = tiny_vit().train()
    objective = ContrastiveRepresentation(tiny_vit(), bank_size=32)
    attachment = attach(student, [objective])
    student.to(torch.bfloat16)
    objective.float()
    given = indexed(student)
    student(**{**given, "pixel_values": given["pixel_values"].bfloat16()}).loss.backward()
    assert attachment.terms["contrastive_representation"].dtype == torch.float32


def test_rows_that_another_objective_adds_are_not_remembered():
    student = tiny_bert().train()
    objective = ContrastiveRepresentation(tiny_bert(), bank_size=32)
    attachment = attach(student, [RDrop(), objective])
    student(**indexed(student, 4)).loss.backward()
    assert attachment.terms["contrastive_representation"] > 0
    assert (objective.bank.owner != EMPTY).sum() == 4


def test_tokens_and_several_labels_have_no_class():
    for student in (tiny_token_bert(), tiny_bert(problem_type="multi_label_classification")):
        objective = ContrastiveRepresentation(tiny_bert(), bank_size=32)
        attachment = attach(student.train(), [objective])
        given = indexed(student)
        if given["labels"].dim() == 1:
            given["labels"] = torch.zeros(6, 3)
        student(**given).loss.backward()
        assert attachment.terms["contrastive_representation"] > 0 and (objective.bank.labels == -100).all()


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}])
def test_a_resumed_run_is_the_straight_one_bit_for_bit_memory_too(options, tmp_path):
    def trainer():
        torch.manual_seed(0)
        args = TransferArguments(
            output_dir=str(tmp_path), max_steps=6, save_steps=3, save_strategy="steps", per_device_train_batch_size=4,
            learning_rate=1e-2, report_to="none", use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True,
            **options,
        )  # fmt: skip
        objective = ContrastiveRepresentation(tiny_bert(), bank_size=12, embed_dim=4)
        data = with_index(rows(16, 0, True, False))
        return TransferTrainer(tiny_bert(), args, objectives=[objective], train_dataset=data)

    straight, resumed = trainer(), trainer()
    straight.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    ours, theirs = straight.model.state_dict(), resumed.model.state_dict()
    assert "transfer_objectives.contrastive_representation.bank.owner" in ours
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    owners = ours["transfer_objectives.contrastive_representation.bank.owner"]
    assert (owners % 12 == torch.arange(12)).all(), "the whole data set was seen"


def test_the_exported_model_holds_none_of_it(tmp_path):
    student = tiny_bert()
    attach(student, [ContrastiveRepresentation(tiny_bert(), bank_size=4)])
    student.save_pretrained(tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert not any("transfer_objectives" in key for key in file.keys())


# what is refused


def test_rows_without_a_number_are_refused():
    student = tiny_bert().train()
    attach(student, [ContrastiveRepresentation(tiny_bert(), bank_size=4)])
    with pytest.raises(ValueError, match="needs column `index`.*attention_mask.*its own negative.*with_index"):
        student(**batch_for(student))


@pytest.mark.parametrize("index", [torch.arange(4.0), torch.zeros(4, 1, dtype=torch.long), torch.arange(5)])
def test_what_is_no_number_a_row_is_refused(index):
    student = tiny_bert().train()
    attach(student, [ContrastiveRepresentation(tiny_bert(), bank_size=4)])
    with pytest.raises(ValueError, match="Column `index` is .* for 4 rows.*one integer each.*with_index"):
        student(**batch_for(student), index=index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 0}, "`embed_dim=0`.*nothing to contrast.*default 128"),
        ({"bank_size": 1}, "`bank_size=1`.*two rows.*default 16384"),
        ({"temperature": 0.0}, "`temperature=0.0` is not positive.*the paper's 0.07"),
        ({"momentum": 1.0}, r"`momentum=1.0` is not in \[0, 1\).*the paper's 0.5"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveRepresentation(tiny_bert(), **options)


def test_describes_itself():
    objective = ContrastiveRepresentation(tiny_bert(), bank_size=9)
    assert ContrastiveRepresentation(**objective.config()).config() == objective.config()
    assert "bank_size=9" in repr(objective)


def test_works_with_a_data_set_of_datasets():
    assert isinstance(with_index(rows(4, 0, True, False)), Dataset)
