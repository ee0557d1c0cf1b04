"""The search: which trial wins and why, what failing trials leave, and that the trainer is put back."""

from __future__ import annotations

import builtins
import copy
import gc
from functools import partial

import pytest
import torch
import yaml
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from hf_transfer import L2SP, FreezeBackbone, GradualUnfreezing, TransferTrainer, UnfreezingSchedule
from hf_transfer.search import SearchResult, apply_settings, search, search_space
from tests import models
from tests.test_search_space import NOTHING
from tests.test_trainer import QUIET, arguments, labelled


optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.ERROR)

RATES = partial(search_space, **{**NOTHING, "learning_rate": (1e-5, 1e-1)})


@pytest.fixture(autouse=True, scope="module")
def _little_to_collect():
    """Every training and every trial collects garbage, which takes longer than the rest with all libraries loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


def build(folder, *callbacks, cls=TransferTrainer, objectives=(), **options):
    defaults = {"max_steps": -1, "num_train_epochs": 1, "eval_strategy": "epoch", "logging_steps": 100}
    of = TrainingArguments if cls is Trainer else None
    args = arguments(folder, **({"of": of} if of else {}), **{**defaults, **options})
    extra = {"objectives": list(objectives)} if objectives else {}
    return cls(
        model_init=lambda: models.tiny_bert(**QUIET),
        args=args,
        train_dataset=labelled(),
        eval_dataset=labelled(),
        callbacks=list(callbacks),
        **extra,
    )


def scores_of(trainer, values):
    """Replaces the evaluation: a given loss for each evaluation, whatever the model."""
    left = iter(values)

    def evaluate(*args, **kwargs):
        metrics = {"eval_loss": next(left), "eval_runtime": 1.0}
        trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
        return metrics

    trainer.evaluate = evaluate
    return trainer


def test_all_choices_at_once(tmp_path):
    trainer = build(tmp_path, objectives=[L2SP()])
    space = partial(search_space, num_train_epochs=(1, 2), stages=(0, 1, 2), weights={"l2sp": (1e-3, 0.1)})
    found = search(trainer, 3, space=space)
    assert isinstance(found, SearchResult) and found.metric == "loss"
    assert [trial.state for trial in found.trials] == ["complete"] * 3
    assert {"learning_rate", "head_lr", "layer_decay", "lr_schedule", "num_train_epochs", "freeze", "l2sp"} <= set(
        found.settings
    )
    assert found.score == min(trial.score for trial in found.trials)
    (best,) = [trial for trial in found.trials if trial.score == found.score]
    assert best.settings == found.settings
    assert list(tmp_path.iterdir()) == []  # no checkpoints


def test_the_settings_run_again_give_the_score(tmp_path):
    """In a fresh trainer, from YAML: everything that made the score is in them."""
    space = partial(search_space, num_train_epochs=(1, 2), stages=(0, 1, 3), weights={"l2sp": (1e-3, 0.1)})
    found = search(build(tmp_path, objectives=[L2SP()]), 3, space=space)
    path = tmp_path / "search.yaml"
    found.to_yaml(path)
    assert [file.name for file in tmp_path.iterdir()] == ["search.yaml"]
    again = build(tmp_path, objectives=[L2SP()])
    apply_settings(again, yaml.safe_load(path.read_text()))
    again.train()
    assert again.evaluate()["eval_loss"] == found.score


def test_a_seed_proposes_the_same_and_another_something_else(tmp_path):
    seen = [
        [trial.settings for trial in search(scores_of(build(tmp_path), [1.0, 2.0]), 2, space=RATES, seed=seed).trials]
        for seed in (0, 0, 1)
    ]
    assert seen[0] == seen[1] != seen[2]


def test_each_trial_has_its_weights_stages_and_schedule(tmp_path):
    seen = []

    class Probe(L2SP):
        @property
        def name(self):
            return "l2sp"

        def forward(self, batch):
            model = batch.model
            trains = sum(parameter.requires_grad for parameter in model.parameters())
            seen.append((trainer.state.global_step, self.weight, trains, type(trainer.lr_scheduler).__name__))
            return super().forward(batch)

    trainer = build(tmp_path, objectives=[Probe()])
    space = partial(
        search_space, **{**NOTHING, "stages": (0, 1), "lr_schedule": (None, "one_cycle")}, weights={"l2sp": (0.0, 1.0)}
    )
    found = search(trainer, 4, space=space)
    firsts = [entry[1:] for entry in seen if entry[0] == 0]
    assert len(firsts) == 4
    every = len(list(models.tiny_bert().parameters()))
    for trial, (weight, trains, scheduler) in zip(found.trials, firsts, strict=True):
        assert weight == trial.settings["l2sp"]
        assert trains == (2 if trial.settings["freeze"] == "backbone" else every)
        assert scheduler == ("OneCycleLR" if trial.settings["lr_schedule"] else "LambdaLR")
    assert len({first[1] for first in firsts}) == 2, "the draw did not vary: take another seed"


# --- what is chosen


@pytest.mark.parametrize(("greater", "best"), [(None, 1), (False, 1), (True, 2)])
def test_the_best_by_the_direction_of_the_metric(tmp_path, greater, best):
    found = search(scores_of(build(tmp_path), [0.7, 0.2, 0.9]), 3, space=RATES, greater_is_better=greater)
    assert found.settings == found.trials[best].settings and found.score == [0.7, 0.2, 0.9][best]


def test_any_metric_that_is_reported(tmp_path):
    trainer = build(tmp_path)
    trainer.compute_metrics = lambda prediction: {
        "accuracy": float((prediction[0].argmax(-1) == prediction[1]).mean())
    }
    found = search(trainer, 2, space=RATES, metric="accuracy")
    assert found.metric == "accuracy" and found.score == max(trial.score for trial in found.trials)
    with pytest.raises(KeyError, match="`metric=f1` is not reported .*accuracy, loss.*`compute_metrics`"):
        search(trainer, 2, space=RATES, metric="f1")


def test_the_metric_of_the_arguments_is_the_default(tmp_path):
    trainer = build(tmp_path, metric_for_best_model="accuracy")
    trainer.compute_metrics = lambda prediction: {"accuracy": 0.5}
    assert search(trainer, 1, space=RATES).metric == "accuracy"


CURVES = [3.0, 1.0, 2.0, 4.0, 5.0, 1.5]  # two trials of three epochs


def test_with_the_last_checkpoint_the_last_evaluation_counts(tmp_path):
    trainer = scores_of(build(tmp_path, num_train_epochs=3), CURVES)
    assert [trial.score for trial in search(trainer, 2, space=RATES).trials] == [2.0, 1.5]


def test_with_the_best_checkpoint_the_best_evaluation_counts(tmp_path):
    options = {"num_train_epochs": 3, "load_best_model_at_end": True, "save_strategy": "epoch"}
    found = search(scores_of(build(tmp_path, **options), CURVES), 2, space=RATES)
    assert [trial.score for trial in found.trials] == [1.0, 1.5] and found.score == 1.0
    assert list(tmp_path.iterdir()) == []


def test_a_score_that_is_not_a_number_never_wins(tmp_path):
    found = search(scores_of(build(tmp_path), [float("nan"), 5.0, 6.0]), 3, space=RATES)
    assert [trial.state for trial in found.trials] == ["fail", "complete", "complete"] and found.score == 5.0


def test_the_patience_of_early_stopping_starts_anew_with_each_trial(tmp_path):
    options = {"num_train_epochs": 3, "load_best_model_at_end": True, "save_strategy": "epoch"}
    stopping = EarlyStoppingCallback(2)
    # each trial: one better, two worse; a count that went on would end the second trial at its first evaluation
    trainer = scores_of(build(tmp_path, stopping, **options), [1.0, 2.0, 3.0, 0.5, 0.4, 0.3])
    found = search(trainer, 2, space=RATES)
    assert [trial.score for trial in found.trials] == [1.0, 0.3]
    assert stopping.early_stopping_patience_counter == 0


def test_pruning_stops_what_is_worse_than_the_median(tmp_path):
    good, bad = [1.0, 0.9], [9.0, 8.0]
    values = [*good * 5, *bad]
    found = search(scores_of(build(tmp_path, num_train_epochs=2), values), 6, space=RATES, prune=True)
    assert [trial.state for trial in found.trials] == ["complete"] * 5 + ["pruned"]
    assert found.trials[-1].score is None and found.trials[-1].settings
    kept = search(scores_of(build(tmp_path, num_train_epochs=2), values), 6, space=RATES)
    assert [trial.state for trial in kept.trials] == ["complete"] * 6


# --- failures


def test_a_trial_of_bad_settings_does_not_lose_the_others(tmp_path):
    trainer = build(tmp_path)
    space = partial(search_space, **{**NOTHING, "stages": (0, 9)})  # the model has three blocks
    found = search(trainer, 4, space=space)
    states = {trial.settings["freeze"]: trial.state for trial in found.trials}
    assert states == {"none": "complete", "gradual": "fail"}, "the draw did not vary: take another seed"
    assert found.settings == {"freeze": "none"}
    failed = [trial for trial in found.trials if trial.state == "fail"]
    assert all("stages=9 needs 8 groups of blocks" in trial.error and trial.score is None for trial in failed)
    assert all(trial.error is None for trial in found.trials if trial.state == "complete")


def test_if_all_fail_the_reason_is_given(tmp_path):
    space = partial(search_space, **{**NOTHING, "stages": (8, 9)})
    with pytest.raises(ValueError, match="All 2 trials failed, the last one with: stages=.*Train once without"):
        search(build(tmp_path), 2, space=space)


def test_an_error_that_is_no_setting_ends_the_search_and_puts_the_trainer_back(tmp_path):
    trainer = build(tmp_path)
    before = dict(vars(trainer.args))

    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    trainer.training_step = broken
    with pytest.raises(RuntimeError, match="out of memory"):
        search(trainer, 2, space=RATES)
    assert vars(trainer.args) == before and "train" not in vars(trainer) and trainer.hp_search_backend is None


# --- the trainer afterwards


def test_the_trainer_is_put_back_and_trains_as_before(tmp_path):
    callbacks = FreezeBackbone(), EarlyStoppingCallback(3)
    options = {"load_best_model_at_end": True, "save_strategy": "epoch", "num_train_epochs": 2}
    trainer = build(tmp_path / "a", *callbacks, objectives=[L2SP(weight=0.3)], **options)
    args, held = copy.deepcopy(vars(trainer.args)), list(trainer.callback_handler.callbacks)
    space = partial(search_space, num_train_epochs=(1, 2), weights={"l2sp": (1e-3, 0.1)}, stages=(0, 2))
    search(trainer, 2, space=space)
    assert str(vars(trainer.args)) == str(args)
    assert trainer.callback_handler.callbacks == held and trainer.objectives["l2sp"].weight == 0.3
    assert "train" not in vars(trainer)
    trainer.train()
    plain = build(tmp_path / "b", FreezeBackbone(), EarlyStoppingCallback(3), objectives=[L2SP(weight=0.3)], **options)
    plain.train()
    ours, theirs = trainer.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_stock_trainer_serves(tmp_path):
    trainer = build(tmp_path, GradualUnfreezing(stages=2), cls=Trainer)
    found = search(trainer, 2, space=partial(RATES, stages=(0, 1)))
    assert {"learning_rate", "freeze"} == set(found.settings)
    assert [type(c) for c in trainer.callback_handler.callbacks if isinstance(c, UnfreezingSchedule)] == [
        GradualUnfreezing
    ]


def test_without_evaluation_in_training_it_evaluates_at_the_end(tmp_path):
    found = search(build(tmp_path, eval_strategy="no"), 2, space=RATES)
    assert found.score == min(trial.score for trial in found.trials)


# --- refused


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    trainer = build(tmp_path)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="needs Optuna, which is not installed: .*pip install optuna"):
        search(trainer, 1)


def test_what_cannot_be_searched_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`trials=0` runs nothing: .*at least 1"):
        search(build(tmp_path), 0)
    trainer = TransferTrainer(models.tiny_bert(), arguments(tmp_path), eval_dataset=labelled())
    with pytest.raises(ValueError, match="no `model_init`: .*`model_init=lambda"):
        search(trainer, 1)
    trainer = TransferTrainer(model_init=lambda: models.tiny_bert(), args=arguments(tmp_path))
    with pytest.raises(ValueError, match="no validation data: .*Pass `eval_dataset`"):
        search(trainer, 1)


def test_pruning_on_several_ranks_is_refused(tmp_path, monkeypatch):
    trainer = build(tmp_path)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    with pytest.raises(ValueError, match="`prune=True` on 2 ranks: .*Leave it off"):
        search(trainer, 1, prune=True)
