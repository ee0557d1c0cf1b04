"""The named trainers choose objectives and callbacks and hold no logic."""

from __future__ import annotations

import inspect

import pytest
import torch

from hf_transfer import (
    L2SP,
    DistillationTrainer,
    DomainAdversarialTrainer,
    FineTuningTrainer,
    GradualUnfreezing,
    presets,
)
from tests.models import tiny_bert
from tests.test_trainer import arguments, labelled, mixed


PRESETS = [
    value for value in vars(presets).values() if inspect.isclass(value) and value.__module__ == presets.__name__
]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_short_and_define_nothing_but_their_constructor(preset):
    methods = {name for name, value in vars(preset).items() if inspect.isfunction(value)}
    assert methods == {"__init__"}
    assert len(inspect.getsource(preset).splitlines()) <= 40


def test_domain_adversarial_trainer(tmp_path):
    trainer = DomainAdversarialTrainer(tiny_bert(), arguments(tmp_path), train_dataset=mixed(), weight=0.5)
    assert str(trainer.objectives) == "loss = task + 0.5 * domain_adversarial"
    trainer.train()
    assert "loss_domain_adversarial" in trainer.state.log_history[0]


def test_objectives_of_your_own_are_added(tmp_path):
    trainer = DomainAdversarialTrainer(tiny_bert(), arguments(tmp_path), objectives=[L2SP(weight=0.1)])
    assert str(trainer.objectives) == "loss = task + domain_adversarial + 0.1 * l2sp"


def test_distillation_trainer(tmp_path):
    teacher = tiny_bert()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trainer = DistillationTrainer(
        tiny_bert(), arguments(tmp_path), teacher=teacher, temperature=4.0, weight=0.5, train_dataset=labelled()
    )
    assert str(trainer.objectives) == "loss = task + 0.5 * logit_distillation"
    (term,) = trainer.objectives.by_name.values()
    assert term.temperature == 4.0
    trainer.train()
    assert trainer.state.log_history[0]["loss_logit_distillation"] > 0
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_fine_tuning_trainer(tmp_path):
    trainer = FineTuningTrainer(tiny_bert(), arguments(tmp_path), train_dataset=labelled(), stages=3, l2sp=0.02)
    assert str(trainer.objectives) == "loss = task + 0.02 * l2sp"
    assert [c for c in trainer.callback_handler.callbacks if isinstance(c, GradualUnfreezing)]
    trainer.train()


def test_fine_tuning_trainer_with_everything_off_is_plain(tmp_path):
    trainer = FineTuningTrainer(tiny_bert(), arguments(tmp_path), stages=1, l2sp=0)
    assert len(trainer.objectives) == 0
    assert not [c for c in trainer.callback_handler.callbacks if isinstance(c, GradualUnfreezing)]
