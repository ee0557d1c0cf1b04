from __future__ import annotations

import copy

import pytest
import torch

from hf_transfer import CachedTeacher, ModelSpec, TransferBatch, attach
from hf_transfer.teacher import Teacher
from tests.models import batch_for, tiny_bert
from tests.teacher.cache_data import PlainDistillation


def named(*names):
    return tiny_bert(id2label=dict(enumerate(names)), label2id={name: n for n, name in enumerate(names)})


def test_classes_are_matched_by_name():
    model = named("a", "b", "c")
    stored = torch.randn(4, 4)
    batch = batch_for(model, 4)
    batch.pop("domain", None)
    teacher = CachedTeacher(labels=["C", "unknown", "a", "B"])
    objective = PlainDistillation(teacher)
    with attach(model, [objective]):
        model.train()
        seen = []
        objective.register_forward_pre_hook(lambda module, args: seen.append(teacher(args[0]).logits))
        model(**batch, teacher_logits=stored)
    assert torch.equal(seen[0], stored[:, [2, 3, 0]])
    assert teacher.class_names == ["C", "unknown", "a", "B"] and teacher.num_labels == 4
    assert teacher.description() == {"class": "CachedTeacher", "classes": teacher.class_names}


def test_a_class_that_is_not_stored():
    model = named("a", "b", "c")
    with pytest.raises(ValueError, match="has no class `c` of the student"):
        CachedTeacher(labels=["a", "b", "d"]).bind(ModelSpec(16, 3, model), logits=True)


def test_number_of_classes_at_the_first_batch():
    model = tiny_bert()
    batch = batch_for(model, 4)
    batch.pop("domain", None)
    with attach(model, [PlainDistillation(CachedTeacher())]):
        model.train()
        with pytest.raises(ValueError, match="are of 5 classes where 3 are expected"):
            model(**batch, teacher_logits=torch.zeros(4, 5))


def test_without_columns():
    model = tiny_bert()
    batch = batch_for(model, 4)
    batch.pop("domain", None)
    with attach(model, [PlainDistillation(CachedTeacher())]):
        model.train()
        with pytest.raises(ValueError, match=r"The batch has no extra columns, and CachedTeacher\(\) knows only"):
            model(**batch)


def test_there_is_no_model():
    teacher = CachedTeacher()
    for ask in (lambda: teacher.model, lambda: teacher.anatomy, lambda: teacher.num_labels):
        with pytest.raises(ValueError, match="only stored outputs are left of it: there is no model to look at"):
            ask()
    with pytest.raises(ValueError, match="asked for its attention maps"):
        teacher.require(attentions=["x"])
    assert teacher.class_names is None
    assert Teacher.of(teacher) is teacher and copy.deepcopy(teacher) is teacher and repr(teacher) == "CachedTeacher()"


def test_hidden_states_are_among_its_columns():
    teacher = CachedTeacher(hidden_states=["a"])
    teacher.require(hidden_states=["b"])
    assert {"teacher_hidden.a", "teacher_hidden.b"} <= set(teacher.columns)
    batch = TransferBatch(features=torch.zeros(1, 2), columns={"teacher_hidden.b": torch.ones(1, 3)})
    assert teacher(batch).hidden_states["b"].tolist() == [[1.0, 1.0, 1.0]] and teacher(batch) is teacher(batch)
