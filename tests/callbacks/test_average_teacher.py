"""The average teacher in runs: one update per optimizer step, bit-for-bit resume, no trace in what is exported."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_transfer import AverageTeacher, ExponentialMovingAverage, TransferArguments, TransferTrainer, attach
from hf_transfer.callbacks.average_teacher import (
    AVERAGE_TEACHER_NAME,
    UpdateAverageTeacher,
    average_teacher_callbacks,
)
from tests.callbacks.harness import Rows, arguments, make_trainer, seeded
from tests.models import lora, tiny_bert, tiny_resnet
from tests.teacher.test_average import Consistency, tensors


BUILDS = {
    "bert": tiny_bert,
    "resnet": tiny_resnet,
    "bert lora": lambda: lora(tiny_bert(), ["query"], "classifier"),
    "bert in bfloat16": lambda: tiny_bert().bfloat16(),
}


class Raw(TrainerCallback):
    """Weights of the student after each optimizer step."""

    def __init__(self):
        self.weights = []

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.weights.append(tensors(kwargs["model"]))


def transfer_trainer(folder, name, *callbacks, teachers=1, **options):
    model = seeded(BUILDS[name])
    rows = Rows(model)
    options = {"lr_scheduler_type": "constant", **options}
    args = TransferArguments(**{**arguments(folder).to_dict(), "max_steps": 6, **options})
    objectives = [Consistency(AverageTeacher(0.8), weight=5.0) for _ in range(teachers)]
    trainer = TransferTrainer(model, args, objectives=objectives, train_dataset=rows, callbacks=list(callbacks))
    return trainer, objectives[0].teacher


def expected(history):
    average = {key: value.double() for key, value in history[0].items()}
    for step, weights in enumerate(history[1:], 1):
        decay = min(0.8, (1 + step) / (10 + step))
        average = {key: decay * value + (1 - decay) * weights[key].double() for key, value in average.items()}
    return average


@pytest.mark.parametrize("name", ["bert", "resnet", "bert lora"])
def test_the_trainer_updates_it_once_per_optimizer_step(name, tmp_path):
    raw = Raw()
    trainer, teacher = transfer_trainer(tmp_path, name, raw, gradient_accumulation_steps=2, max_steps=4)
    start = tensors(trainer.model)
    trainer.train()
    assert teacher.steps == 4
    for key, value in expected([start, *raw.weights]).items():
        torch.testing.assert_close(tensors(teacher.model)[key].double(), value, rtol=1e-5, atol=1e-6, msg=key)
    trainer.train()
    assert teacher.steps == 4, "a second run begins anew"


@pytest.mark.parametrize("name", BUILDS)
def test_a_resumed_run_is_a_straight_run_bit_for_bit(name, tmp_path):
    straight, teacher = transfer_trainer(tmp_path / "a", name, save_strategy="steps", save_steps=3)
    straight.train()
    folder = tmp_path / "a" / "checkpoint-3"
    resumed, second = transfer_trainer(tmp_path / "b", name)
    with torch.no_grad():  # whatever it was when it was built
        for parameter in resumed.model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    resumed.train(resume_from_checkpoint=str(folder))
    assert second.steps == 6
    assert all(value.equal(tensors(second.model)[key]) for key, value in tensors(teacher.model).items())
    assert all(value.equal(second.state_dict()[key]) for key, value in teacher.state_dict().items())
    assert all(value.equal(tensors(resumed.model)[key]) for key, value in tensors(straight.model).items())


def test_it_is_in_a_file_of_its_own_in_checkpoints_and_nowhere_else(tmp_path):
    trainer, teacher = transfer_trainer(tmp_path, "bert", save_strategy="steps", save_steps=6)
    bare = set(tiny_bert().state_dict())
    trainer.train()
    checkpoint = tmp_path / "checkpoint-6"
    stored = load_file(checkpoint / AVERAGE_TEACHER_NAME)
    assert {key.partition(".")[2] for key in stored} == set(teacher.state_dict())
    assert all(value.equal(stored[f"0.{key}"]) for key, value in teacher.state_dict().items())
    assert set(load_file(checkpoint / "model.safetensors")) == bare
    assert not (checkpoint / "objectives.safetensors").exists()
    trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final" / AVERAGE_TEACHER_NAME).exists()
    assert set(load_file(tmp_path / "final" / "model.safetensors")) == bare
    assert not list(checkpoint.glob(".*"))


def test_several_share_the_file(tmp_path):
    trainer, _ = transfer_trainer(tmp_path, "bert", teachers=2, save_strategy="steps", save_steps=6)
    assert sum(isinstance(one, UpdateAverageTeacher) for one in trainer.callback_handler.callbacks) == 1
    trainer.train()
    with safe_open(tmp_path / "checkpoint-6" / AVERAGE_TEACHER_NAME, framework="pt") as file:
        assert {key[:2] for key in file.keys()} == {"0.", "1."}  # noqa: SIM118
        assert file.metadata()["step"] == "6"


def test_in_a_stock_trainer_the_user_adds_the_callback(tmp_path):
    model, teacher = seeded(), AverageTeacher(0.8)
    attach(model, [Consistency(teacher)])
    raw, start = Raw(), tensors(model)
    make_trainer(tmp_path, model, teacher.callback(), raw, max_steps=4, gradient_accumulation_steps=2).train()
    assert teacher.steps == 4
    for key, value in expected([start, *raw.weights]).items():
        torch.testing.assert_close(tensors(teacher.model)[key].double(), value, rtol=1e-5, atol=1e-6, msg=key)


def test_beside_an_average_that_is_the_result_it_takes_the_raw_weights(tmp_path):
    plain, alone = transfer_trainer(tmp_path, "bert")
    plain.train()
    beside, teacher = transfer_trainer(tmp_path, "bert", ExponentialMovingAverage(0.9))
    beside.train()
    assert all(value.equal(tensors(teacher.model)[key]) for key, value in tensors(alone.model).items())


def test_a_callback_the_user_gave_is_not_doubled(tmp_path):
    objective = Consistency(AverageTeacher())
    given = objective.teacher.callback()
    assert average_teacher_callbacks([objective], [given]) == []
    (made,) = average_teacher_callbacks([objective, Consistency(objective.teacher)], [])
    assert made.teachers == (objective.teacher,)
    assert average_teacher_callbacks([Consistency(tiny_bert())], []) == []
    model = seeded()
    attach(model, [objective])
    make_trainer(tmp_path, model, given, objective.teacher.callback(), max_steps=3).train()
    assert objective.teacher.steps == 3, "twice the callback is still one update a step"


def test_checkpoints_without_it_are_refused(tmp_path):
    trainer, _ = transfer_trainer(tmp_path, "bert", save_strategy="steps", save_steps=3)
    trainer.train()
    folder = tmp_path / "checkpoint-3"
    moved = tmp_path / "moved" / "checkpoint-3"
    shutil.copytree(folder, moved)
    (folder / AVERAGE_TEACHER_NAME).unlink()
    resumed, _ = transfer_trainer(tmp_path, "bert")
    with pytest.raises(
        ValueError, match=rf"No {AVERAGE_TEACHER_NAME} of this run and step 3 in .*if it was moved, name"
    ):
        resumed.train(resume_from_checkpoint=str(folder))
    found, teacher = transfer_trainer(tmp_path, "bert", resume_from_checkpoint=str(moved))
    found.train(resume_from_checkpoint=str(moved))
    assert teacher.steps == 6


def test_a_run_that_began_without_it_cannot_be_resumed_with_it(tmp_path):
    make_trainer(tmp_path, seeded(), save_strategy="steps", save_steps=3, max_steps=3).train()
    model, teacher = seeded(), AverageTeacher()
    attach(model, [Consistency(teacher)])
    trainer = make_trainer(tmp_path, model, teacher.callback(), max_steps=6)
    with pytest.raises(ValueError, match=r"was written without UpdateAverageTeacher - its average teacher would"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"restore_callback_states_from_checkpoint": True}, r"would make its callback anew.*leave it False"),
        ({"enable_jit_checkpoint": True}, r"saves in the middle of a step.*set save_steps low enough"),
    ],
)
def test_what_cannot_work_is_refused_when_the_trainer_is_built(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        transfer_trainer(tmp_path, "bert", **options)


def test_fsdp_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    callback, args = AverageTeacher().callback(), arguments(tmp_path)
    with pytest.raises(ValueError, match=r"AverageTeacher under FSDP - each rank holds a shard.*use DDP"):
        callback.on_init_end(args, None, None, model=tiny_bert())
