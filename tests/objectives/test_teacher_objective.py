"""What objectives with a teacher share: attached, asked once, told of the data's columns, compiled."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.utils.data import DataLoader

from hf_transfer import Teacher, TransferArguments, TransferTrainer, attach
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from tests.invariants.run import rows
from tests.models import batch_for, tiny_bert
from tests.teacher.test_teacher import Features, Squared


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class OneState(TeacherObjective):
    """The mean of a hidden state of the teacher."""

    def build(self, spec):
        super().build(spec)
        self.teacher.require(hidden_states=["bert.encoder.layer.0"])
        return self

    def forward(self, batch):
        return self.taught(batch).hidden_states["bert.encoder.layer.0"].mean() * batch.features.mean()


def test_one_forward_for_several_objectives_on_one_teacher():
    teacher = Teacher(tiny_bert())
    calls = []
    teacher.model.register_forward_hook(lambda *_: calls.append(1))
    student = tiny_bert().train()
    attach(student, [Squared(teacher), Features(teacher), OneState(teacher)])
    for step in range(1, 3):
        student(**batch_for(student)).loss.backward()
        assert len(calls) == step
    student.eval()
    student(**batch_for(student))
    assert len(calls) == 2, "asked outside training"


def test_the_columns_are_those_of_what_the_teacher_was_asked_for():
    objective = OneState(tiny_bert())
    assert "teacher_logits" in objective.optional_columns and objective.inspects_data
    attachment = attach(tiny_bert(), [objective])
    assert "teacher_hidden.bert.encoder.layer.0" in attachment.objectives.columns()
    assert "teacher_input_ids" in objective.optional_columns


def test_stored_logits_are_learnt_in_place_of_a_forward():
    teacher, student = Teacher(tiny_bert()), tiny_bert(**QUIET).train()
    attachment = attach(student, [Squared(teacher)])
    batch = batch_for(student)
    logits = student(**batch).logits.detach()
    online = attachment.terms["squared"].item()
    calls = []
    teacher.model.register_forward_hook(lambda *_: calls.append(1))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    stored = teacher.source(inputs).logits
    calls.clear()
    student(**batch, teacher_logits=stored)
    assert attachment.terms["squared"].item() == online and not calls
    student(**batch, teacher_logits=logits)
    assert attachment.terms["squared"].item() == 0


@pytest.mark.parametrize("shared", [False, True])
def test_the_trainer_has_the_teacher_inspected_once(shared, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    teacher = tiny_bert()
    torch.nn.init.zeros_(teacher.classifier.weight)
    with torch.no_grad():
        teacher.classifier.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    asked = Teacher(teacher)
    args = TransferArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, report_to="none", use_cpu=True,
        dataloader_pin_memory=False, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    objectives = [Squared(asked), Squared(asked)] if shared else [Squared(asked)]
    trainer = TransferTrainer(tiny_bert(), args, objectives=objectives, train_dataset=rows(48, 0, True, False))
    trainer.train()
    warnings = [record for record in caplog.records if "it is no better" in record.getMessage()]
    assert len(warnings) == 1 and "of 48 labelled rows" in warnings[0].getMessage()


def test_a_loader_without_labels_says_nothing(caplog):
    student = tiny_bert()
    objective = Squared(tiny_bert())
    attach(student, [objective])
    data = [{"input_ids": torch.ones(3, dtype=torch.long)} for _ in range(30)]
    objective.inspect(student, DataLoader(data, batch_size=4))
    assert "no better" not in caplog.text


def test_describes_itself():
    teacher = Teacher(tiny_bert())
    objective = Squared(teacher, weight=0.25)
    assert objective.config() == {"teacher": teacher, "weight": 0.25}
    assert repr(objective) == "Squared(teacher=Teacher(BertForSequenceClassification), weight=0.25)"
    several = Squared([tiny_bert(), tiny_bert()])
    assert "combine='mean'" in repr(several)
