"""The teacher: one forward a batch, frozen, nowhere in the student, in its own type and place."""

from __future__ import annotations

import copy
import gc
import json
import weakref

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import BertModel, ResNetModel, ViTModel

from hf_transfer import (
    EmbeddingDistillation,
    LogitDistillation,
    ModelSpec,
    Source,
    Teacher,
    TransferArguments,
    TransferBatch,
    TransferTrainer,
    attach,
)
from hf_transfer.checkpoint import OBJECTIVES_NAME
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from tests.invariants.run import rows
from tests.models import TINY, batch_for, bert_config, lora, tiny_bert, tiny_resnet, tiny_vit


class Squared(TeacherObjective):
    """Squared error of the logits."""

    reads_teacher_logits = True

    def forward(self, batch):
        return F.mse_loss(batch.logits, self.taught(batch).logits)


class Features(TeacherObjective):
    """Squared error of the mean feature."""

    def forward(self, batch):
        return (batch.features.mean() - self.taught(batch).features.mean()).square()


def batch_of(model, rows=4):
    batch = batch_for(model, rows)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "domain")}
    return TransferBatch(features=torch.zeros(rows, 16), inputs=inputs)


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def spec_of(model):
    return ModelSpec(feature_dim=16, num_labels=model.config.num_labels, model=model)


@pytest.mark.parametrize("kind", TINY)
def test_says_what_the_model_says(kind):
    model = TINY[kind]().eval()
    batch = batch_of(model)
    with torch.no_grad():
        expected = model(**batch.inputs).logits
    output = Teacher(model.train())(batch)
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=0)
    assert not output.logits.requires_grad and output.features.dtype == torch.float32


def test_runs_once_for_all_who_ask_and_forgets_with_the_batch():
    teacher = Teacher(tiny_bert())
    calls = []
    teacher.model.register_forward_hook(lambda *_: calls.append(1))
    batch = batch_of(teacher.model)
    said = teacher(batch)
    assert teacher(batch) is said and len(calls) == 1
    logits = weakref.ref(said.logits)
    assert teacher(batch_of(teacher.model)) is not said and len(calls) == 2
    del said, batch
    gc.collect()
    assert logits() is None and teacher._last is None, "what was said outlives the batch"


def test_is_in_no_file_and_does_not_move(tmp_path):
    model = tiny_resnet()
    before = state_of(model)
    student = tiny_resnet(depths=[1, 1])
    bare = set(student.state_dict())
    objectives = [Squared(model), Features(Teacher(model, copy=False))]
    args = TransferArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        save_steps=2,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    TransferTrainer(student, args, objectives=objectives, train_dataset=rows(8, 0, True, True)).train()
    student.save_pretrained(tmp_path / "exported")
    for folder in (tmp_path / "run" / "checkpoint-2", tmp_path / "exported"):
        assert set(load_file(folder / "model.safetensors")) == bare
    assert not (tmp_path / "run" / "checkpoint-2" / OBJECTIVES_NAME).exists() or not load_file(
        tmp_path / "run" / "checkpoint-2" / OBJECTIVES_NAME
    )
    modules = set(student.modules())
    for objective in objectives:
        assert not modules & set(objective.teacher.model.modules())
        held = objective.teacher.model.state_dict()
        assert all(torch.equal(value, before[name]) for name, value in held.items() if "num_batches" not in name)
        assert not objective.teacher.model.training


def test_stays_in_evaluation_mode():
    noisy = {"hidden_dropout_prob": 0.9, "attention_probs_dropout_prob": 0.9}
    model = tiny_bert(**noisy)
    for teacher in (Teacher(model), Teacher(model, copy=False)):
        model.train()
        student = tiny_bert()
        attach(student, [Squared(teacher)])
        student.train()
        batch = batch_of(model)
        assert torch.equal(teacher(batch).logits, teacher(batch_of(model)).logits)


def test_without_a_copy_it_is_the_very_model():
    model = tiny_bert()
    weight = model.classifier.weight
    assert Teacher(model, copy=False).model is model and model.classifier.weight is weight
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert Teacher(model).model is not model
    with pytest.raises(ValueError, match="with `copy=False`: the conversion would change.*dtype"):
        Teacher(model, copy=False, dtype=torch.bfloat16)
    attach(model, [Features(tiny_bert())])
    with pytest.raises(ValueError, match="Objectives are attached.*`detach"):
        Teacher(model, copy=False)


def test_the_student_itself_is_refused():
    student = tiny_bert()
    attach(student, [Squared(student)]).detach()  # of a copy it may learn
    with pytest.raises(ValueError, match="in whole or in part, the student itself.*so that a copy is kept.*deepcopy"):
        attach(student, [Squared(Teacher(student, copy=False))])
    base = tiny_bert()
    with pytest.raises(ValueError, match="the student itself"):
        attach(lora(base, ["query"]), [Squared(Teacher(base, copy=False))])
    adapted = lora(tiny_bert(), ["query"])
    attach(adapted, [Squared(adapted)])


def test_its_own_type_whatever_the_autocast_of_the_student():
    model = tiny_bert()
    teacher = Teacher(model)
    expected = teacher(batch_of(model)).logits
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher(batch_of(model)).logits, expected)
    half = Teacher(model, dtype=torch.bfloat16)
    assert next(half.model.parameters()).dtype == torch.bfloat16 and model.classifier.weight.dtype == torch.float32
    said = half(batch_of(model)).logits
    assert said.dtype == torch.float32 and torch.allclose(said, expected, atol=0.02) and not said.equal(expected)


def test_its_own_device():
    teacher = Teacher(tiny_resnet(), device="meta")
    seen = []
    teacher.model.register_forward_pre_hook(
        lambda m, a, k: seen.append(k["pixel_values"].device.type), with_kwargs=True
    )
    with pytest.raises(NotImplementedError, match="meta"):  # what it says cannot be brought back from there
        teacher(batch_of(teacher.model))
    assert seen == ["meta"] and next(teacher.model.parameters()).device.type == "meta"
    plain = Teacher(tiny_bert(), device="cpu")
    assert plain(batch_of(plain.model)).logits.device.type == "cpu"


@pytest.mark.parametrize(
    ("model", "width"), [(BertModel(bert_config()), 16), (BertModel(bert_config(), add_pooling_layer=False), 16)]
)
def test_without_a_head_it_has_features_only(model, width):
    model.eval()
    teacher = Teacher(model)
    block = teacher.anatomy.blocks[-1]
    teacher.require(hidden_states=[block])
    batch = batch_of(tiny_bert())
    output = teacher(batch)
    with torch.no_grad():
        whole = model(**batch.inputs)
    expected = whole.pooler_output
    if expected is None:
        mask = batch.inputs["attention_mask"].unsqueeze(-1)
        expected = (whole.last_hidden_state * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(output.features, expected)
    assert output.logits is None and torch.equal(output.hidden_states[block], whole.last_hidden_state)
    assert teacher.anatomy.feature_dim == width == output.features.shape[1]
    attach(tiny_bert(), [Features(teacher)])
    with pytest.raises(ValueError, match="predicts nothing .*base model.*there are no logits.*Give a checkpoint"):
        attach(tiny_bert(), [Squared(teacher)])
    assert teacher.description()["classes"] is None


@pytest.mark.parametrize("make", [tiny_vit, tiny_resnet])
def test_base_models_of_images(make):
    whole = make()
    base = ViTModel(whole.config) if make is tiny_vit else ResNetModel(whole.config)
    teacher = Teacher(base)
    output = teacher(batch_of(whole))
    assert output.features.shape == (4, teacher.anatomy.feature_dim)


def test_a_checkpoint_without_a_head(tmp_path):
    model = tiny_bert()
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier")}
    model.save_pretrained(tmp_path, state_dict=state)
    teacher = Teacher(tmp_path)
    with pytest.raises(ValueError, match=r"predicts nothing \(the checkpoint holds no weights for `classifier`\)"):
        attach(tiny_bert(), [Squared(teacher)])
    batch = batch_of(model)
    assert teacher(batch).logits is None
    with torch.no_grad():
        expected = model.eval().bert(**batch.inputs).pooler_output
    torch.testing.assert_close(teacher(batch).features, expected)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="`weights=.*for a single teacher"):
        Teacher(tiny_bert(), weights=[1.0])
    with pytest.raises(ValueError, match="`head` or `dtype` beside a `Source`"):
        Teacher(Source(tiny_bert()), dtype=torch.float16)


def test_other_shapes_are_refused():
    teacher = Teacher(tiny_bert())
    student = tiny_bert()
    teacher.bind(spec_of(student), logits=True)
    batch = batch_of(student)
    other = TransferBatch(features=batch.features, logits=torch.zeros(6, 3), inputs=batch.inputs)
    with pytest.raises(ValueError, match=r"shape \(4, 3\) and the student of \(6, 3\)"):
        teacher(other)


def test_describes_itself(tmp_path):
    model = tiny_bert(id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    model.save_pretrained(tmp_path)
    teacher = Teacher(str(tmp_path), labels={"a": "x"}, dtype=torch.bfloat16)
    told = json.loads(json.dumps(teacher.description()))
    assert told["model"] == str(tmp_path) and told["classes"] == ["a", "b", "c"] and told["dtype"] == "bfloat16"
    assert told["labels"] == {"a": "x"} and told["parameters"] == sum(p.numel() for p in model.parameters())
    assert repr(teacher) == f"Teacher({str(tmp_path)!r})"
    objective = Squared(teacher, weight=0.5)
    assert objective.config() == {"teacher": teacher, "weight": 0.5}
    assert str(tmp_path) in repr(objective) and copy.deepcopy(teacher) is teacher


def test_it_runs_before_the_student():
    """Its forward then does not compete with the student's activations; and still there is only one."""
    student, order = tiny_bert().train(), []
    teacher = Teacher(tiny_bert(hidden_size=24))
    teacher.model.register_forward_hook(lambda *_: order.append("teacher"))
    student.register_forward_pre_hook(lambda *_: order.append("begin"))
    student.classifier.register_forward_hook(lambda *_: order.append("student"))
    batch = {key: value for key, value in batch_for(student).items() if key != "domain"}
    with attach(student, [LogitDistillation(teacher), EmbeddingDistillation(teacher)]) as attachment:
        student(**batch)
        assert order == ["begin", "teacher", "student"] and teacher._ahead is None
        first = dict(attachment.terms)
        other = {**batch, "input_ids": batch["input_ids"].flip(0)}  # not what was said of the last one
        student(**other)
        assert order.count("teacher") == 2
        assert all(attachment.terms[name] != value for name, value in first.items() if name != "task")


def test_what_is_stored_is_not_computed_ahead():
    student, calls = tiny_bert().train(), []
    teacher = Teacher(tiny_bert())
    teacher.model.register_forward_hook(lambda *_: calls.append(1))
    batch = {key: value for key, value in batch_for(student).items() if key != "domain"}
    with attach(student, [LogitDistillation(teacher)]):
        student(**batch, teacher_logits=torch.zeros(4, 3)).loss.backward()
    assert calls == []
