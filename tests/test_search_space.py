"""What a trial may propose, and how a trainer takes it."""

from __future__ import annotations

import math
from functools import partial

import pytest
import yaml
from transformers import EarlyStoppingCallback, HfArgumentParser, Trainer, TrainingArguments

from hf_transfer import (
    L2SP,
    DomainAdversarial,
    FreezeBackbone,
    GradualUnfreezing,
    TransferArguments,
    TransferTrainer,
    UnfreezingSchedule,
)
from hf_transfer.recipe import _words
from hf_transfer.search_space import apply_settings, search_space
from tests import models
from tests.test_trainer import arguments, mixed


optuna = pytest.importorskip("optuna")
NOTHING = {
    "learning_rate": None,
    "head_lr": None,
    "layer_decay": None,
    "lr_schedule": None,
    "num_train_epochs": None,
    "stages": None,
}


def proposals(count=60, **options):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [search_space(study.ask(), **options) for _ in range(count)]


def test_every_choice_is_proposed_within_its_range():
    seen = proposals(weights={"l2sp": (1e-4, 0.1), "domain_adversarial": (0.0, 1.0)})
    ranges = {"learning_rate": (1e-5, 1e-3), "head_lr": (1e-4, 1e-2), "layer_decay": (0.5, 1.0), "l2sp": (1e-4, 0.1)}
    for name, (low, high) in {**ranges, "domain_adversarial": (0.0, 1.0), "num_train_epochs": (5, 30)}.items():
        assert all(low <= settings[name] <= high for settings in seen), name
        assert len({settings[name] for settings in seen}) > 10, name
    assert {settings["lr_schedule"] for settings in seen} == {None, "slanted_triangular", "one_cycle"}
    assert {settings["freeze"] for settings in seen} == {"none", "backbone", "gradual"}
    assert all(type(settings["num_train_epochs"]) is int for settings in seen)


@pytest.mark.parametrize("name", ["learning_rate", "head_lr", "l2sp"])
def test_rates_and_weights_are_drawn_on_a_logarithmic_scale(name):
    """Half of them below the geometric mean, not a tenth."""
    seen = [settings[name] for settings in proposals(300, weights={"l2sp": (1e-5, 1e-1)})]
    middle = {"learning_rate": 1e-4, "head_lr": 1e-3, "l2sp": 1e-3}[name]
    assert 0.4 < sum(value < middle for value in seen) / 300 < 0.6


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (0, {"freeze": "none"}),
        (1, {"freeze": "backbone"}),
        (2, {"freeze": "gradual", "stages": 2}),
        (5, {"freeze": "gradual", "stages": 5}),
    ],
)
def test_stages_are_the_recipes_options(stages, expected):
    space = partial(search_space, **{**NOTHING, "stages": (0, 1, 2, 5)})
    assert space(optuna.trial.FixedTrial({"stages": stages})) == expected


def test_nothing_to_search_is_nothing():
    assert search_space(optuna.trial.FixedTrial({}), **NOTHING) == {}


def test_it_is_a_pure_function_of_the_trial():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    first = search_space(trial)
    assert search_space(trial) == first == search_space(optuna.trial.FixedTrial(trial.params))


def test_settings_survive_yaml_and_the_parser():
    for settings in proposals(20):
        known = set(settings)
        text = yaml.safe_load(yaml.safe_dump(settings))
        words = _words({k: v for k, v in text.items() if k not in ("freeze", "stages")}, known, "search.yaml")
        (args,) = HfArgumentParser(TransferArguments).parse_args_into_dataclasses([*words, "--use_cpu"])
        for name in ("learning_rate", "head_lr", "layer_decay", "lr_schedule", "num_train_epochs"):
            assert getattr(args, name) == settings[name], name


# --- put into effect


def build(folder, *callbacks, **options):
    return TransferTrainer(
        models.tiny_bert(),
        arguments(folder, **{"max_steps": -1, **options}),
        train_dataset=mixed(),
        objectives=[L2SP(), DomainAdversarial(hidden_size=4)],
        callbacks=list(callbacks),
    )


def schedules(trainer):
    return [c for c in trainer.callback_handler.callbacks if isinstance(c, UnfreezingSchedule)]


def test_settings_reach_arguments_objectives_and_callbacks(tmp_path):
    trainer = build(tmp_path, FreezeBackbone(), EarlyStoppingCallback())
    settings = {
        "learning_rate": 1e-4,
        "head_lr": 1e-2,
        "layer_decay": 0.7,
        "lr_schedule": "one_cycle",
        "num_train_epochs": 7,
        "freeze": "gradual",
        "stages": 3,
        "l2sp": 0.25,
        "domain_adversarial": 0.5,
    }
    apply_settings(trainer, settings)
    args = trainer.args
    assert (args.learning_rate, args.head_lr, args.layer_decay) == (1e-4, 1e-2, 0.7)
    assert args.lr_schedule == "one_cycle" and args.num_train_epochs == 7.0 and math.isfinite(args.num_train_epochs)
    assert trainer.objectives["l2sp"].weight == 0.25 and trainer.objectives["domain_adversarial"].weight == 0.5
    (schedule,) = schedules(trainer)
    assert isinstance(schedule, GradualUnfreezing) and schedule.stages == 3 and args.ddp_find_unused_parameters
    assert any(isinstance(c, EarlyStoppingCallback) for c in trainer.callback_handler.callbacks)
    # the next settings take everything back; the Trainer itself would make text of a None
    apply_settings(trainer, {"lr_schedule": None, "freeze": "none"})
    assert args.lr_schedule is None and schedules(trainer) == []
    apply_settings(trainer, {"freeze": "backbone"})
    assert isinstance(schedules(trainer)[0], FreezeBackbone)


def test_without_freeze_the_schedule_stays(tmp_path):
    trainer = build(tmp_path, schedule := FreezeBackbone())
    apply_settings(trainer, {"learning_rate": 1e-4})
    assert schedules(trainer) == [schedule]


def test_what_has_no_effect_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`rdrop` is no option of TransferArguments .*\(l2sp, domain_adversarial\)"):
        apply_settings(build(tmp_path), {"rdrop": 0.1})
    with pytest.raises(ValueError, match="`num_train_epochs` with `max_steps=4`: .*Leave `max_steps` at -1"):
        apply_settings(build(tmp_path, max_steps=4), {"num_train_epochs": 3})
    with pytest.raises(ValueError, match="`freeze='half'` is unknown: .*'none', 'backbone', 'gradual'"):
        apply_settings(build(tmp_path), {"freeze": "half"})
    with pytest.raises(ValueError, match="`lr_schedule='one_cycle'` with `warmup_steps=5`"):
        apply_settings(build(tmp_path, warmup_steps=5), {"lr_schedule": "one_cycle"})


def test_a_stock_trainer_takes_its_own_arguments_only(tmp_path):
    trainer = Trainer(models.tiny_bert(), arguments(tmp_path, of=TrainingArguments))
    apply_settings(trainer, {"learning_rate": 1e-4, "freeze": "backbone"})
    assert trainer.args.learning_rate == 1e-4 and len(schedules(trainer)) == 1
    with pytest.raises(ValueError, match=r"`head_lr` is no option of TrainingArguments .*\(none\).*TransferArguments"):
        apply_settings(trainer, {"head_lr": 1e-4})
