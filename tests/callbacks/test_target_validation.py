"""The scores among the metrics of an evaluation, in time for whoever chooses by them, and blind to target labels."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from hf_transfer import (
    DomainAdversarial,
    TargetValidation,
    TransferArguments,
    TransferTrainer,
    mix_domains,
    validate_without_labels,
)
from tests.callbacks.harness import Rows, arguments, copy_of, make_trainer, seeded
from tests.launching import launch
from tests.models import lora, tiny_bert, tiny_vit
from tests.validators.rows import rows_of


NAMES = ["iwv", "dev", "entropy", "information_maximization", "snd", "reverse", "mixval"]
EVALUATE = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 6}
BEST = {**EVALUATE, "save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True}


def data(model, *, labels=True):
    return {
        "source": rows_of(model, 12, seed=1),
        "target": rows_of(model, 14, seed=2, labels=labels),
        "train_source": rows_of(model, 16, seed=3),
    }


def validation(model, *names, labels=True, **options) -> TargetValidation:
    return TargetValidation(**data(model, labels=labels), validators=names or None, **options)


class Seen(TrainerCallback):
    """What a logger behind it in the list, and an observer of evaluations, are given."""

    def __init__(self):
        self.logs, self.metrics = [], []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.metrics.append(dict(metrics))


def entries(trainer, name="eval_snd"):
    return [(entry["step"], entry[name]) for entry in trainer.state.log_history if name in entry]


def test_every_evaluation_has_every_score(tmp_path):
    model = seeded()
    seen = Seen()
    oracle = rows_of(model, 14, seed=2)
    trainer = make_trainer(tmp_path, model, validation(model, oracle=oracle), seen, **EVALUATE)
    trainer.train()
    keys = [f"eval_{name}" for name in [*NAMES, "oracle_accuracy", "oracle_macro_f1"]]
    logged = [log for log in seen.logs if "eval_loss" in log]
    assert len(logged) == len(seen.metrics) == 3
    for log, metrics, entry in zip(
        logged, seen.metrics, [e for e in trainer.state.log_history if "eval_loss" in e], strict=True
    ):
        assert [key for key in metrics if key in keys] == keys
        assert (
            {key: log[key] for key in keys} == {key: metrics[key] for key in keys} == {key: entry[key] for key in keys}
        )
    assert len({metrics["eval_snd"] for metrics in seen.metrics}) == 3
    assert not any(key in log for log in seen.logs if "eval_loss" not in log for key in keys)


def test_the_oracle_is_absent_unless_given(tmp_path):
    model = seeded()
    found = make_trainer(tmp_path, model, validation(model)).evaluate()
    assert {f"eval_{name}" for name in NAMES} <= set(found) and not any("oracle" in key for key in found)


def test_scores_are_those_of_the_function(tmp_path):
    model = seeded()
    found = make_trainer(tmp_path, model, validation(model)).evaluate()
    rows = data(model)
    expected = validate_without_labels(model, rows["source"], rows["target"], train_source=rows["train_source"])
    assert {key: found[f"eval_{key}"] for key in expected} == expected


@pytest.mark.parametrize("kind", [Trainer, TransferTrainer])
@pytest.mark.parametrize("metric", ["snd", "eval_entropy"])
def test_the_best_checkpoint_is_the_argmax(kind, metric, tmp_path):
    model = seeded()
    arguments_of = {"metric_for_best_model": metric, "learning_rate": 0.05, **BEST}
    rows = Rows(model)
    trainer = kind(
        model,
        arguments(tmp_path, **arguments_of),
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[validation(model, "snd", "entropy")],
    )
    trainer.train()
    name = metric.removeprefix("eval_")
    scores = entries(trainer, f"eval_{name}")
    assert [step for step, _ in scores] == [2, 4, 6]
    step, best = max(scores, key=lambda entry: entry[1])
    assert trainer.state.best_metric == best and trainer.state.best_global_step == step
    assert trainer.args.greater_is_better
    saved = load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items() if key in saved)
    assert trainer.evaluate()[f"eval_{name}"] == pytest.approx(best, rel=1e-6)


def test_several_evaluation_sets_have_the_scores_once(tmp_path):
    model = seeded()
    seen = Seen()
    trainer = make_trainer(tmp_path, model, validation(model, "snd"), seen, metric_for_best_model="snd", **BEST)
    trainer.eval_dataset = {"source": Rows(model), "target": Rows(model)}
    calls = counted(trainer)
    trainer.train()
    assert calls == [2, 4, 6]
    assert ["eval_snd" in metrics for metrics in seen.metrics] == [True, False] * 3
    assert all("eval_source_loss" in metrics for metrics in seen.metrics if "eval_snd" in metrics)
    assert trainer.state.best_metric == max(value for _, value in entries(trainer))
    # at the step of the last evaluation, but with other weights
    merged = trainer.evaluate()
    assert merged["eval_snd"] == pytest.approx(trainer.state.best_metric, rel=1e-6) and calls == [2, 4, 6, 6]
    assert "eval_target_loss" in merged


def counted(trainer):
    """Steps at which the validators run."""
    callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, TargetValidation))
    inner, calls = callback.validation.scores, []

    def scores(*args, **kwargs):
        calls.append(trainer.state.global_step)
        return inner(*args, **kwargs)

    callback.validation.scores = scores
    return calls


def test_evaluations_under_another_name_have_no_scores(tmp_path):
    model = seeded()
    trainer = make_trainer(tmp_path, model, validation(model, "snd"))
    assert not any("snd" in key for key in trainer.evaluate(metric_key_prefix="test"))
    assert not any("snd" in key for key in trainer.evaluate(metric_key_prefix="evaluation"))
    assert not any("snd" in key for key in trainer.predict(Rows(model)).metrics)
    assert "eval_snd" in trainer.evaluate()
    # the same weights at the same step: the round goes on
    assert "eval_snd" not in trainer.evaluate(metric_key_prefix="eval_more")
    assert "eval_snd" in trainer.evaluate()


@pytest.mark.parametrize("first", [True, False])
def test_early_stopping_sees_the_scores_in_any_order(first, tmp_path):
    model = seeded()
    callbacks = [validation(model, "snd"), EarlyStoppingCallback(early_stopping_patience=2)]
    options = {**BEST, "max_steps": 20, "metric_for_best_model": "snd", "learning_rate": 0.0}
    trainer = make_trainer(tmp_path, model, *(callbacks if first else callbacks[::-1]), **options)
    trainer.train()
    # nothing moves: the first is the best, the next two are no better
    assert trainer.state.global_step == 6 and len({value for _, value in entries(trainer)}) == 1


def test_a_trainer_that_logs_a_copy_has_them_in_its_metrics(tmp_path):
    class Copying(Trainer):
        def log(self, logs, start_time=None):
            super().log(dict(logs), start_time)

    class Silent(Trainer):
        def log(self, logs, start_time=None):
            pass

    model = seeded()
    for kind in (Copying, Silent):
        trainer = kind(model, arguments(tmp_path), eval_dataset=Rows(model), callbacks=[validation(model, "snd")])
        calls = counted(trainer)
        found = [trainer.evaluate()["eval_snd"], trainer.evaluate()["eval_snd"]]
        assert found[0] == found[1] and len(calls) == 2


def test_loggers_in_front_have_written_by_then(tmp_path):
    """As those of `report_to` stand in a stock Trainer; the docstring says what to do instead."""
    model = seeded()
    front, behind = Seen(), Seen()
    make_trainer(tmp_path, model, front, validation(model, "snd"), behind).evaluate()
    assert "eval_loss" in front.logs[0] and "eval_snd" not in front.logs[0] and "eval_snd" in behind.logs[0]
    assert "eval_snd" in front.metrics[0]


@pytest.mark.parametrize("build", [tiny_bert, tiny_vit])
def test_training_is_the_same_with_and_without(build, tmp_path):
    finals = []
    for names in ([], NAMES):
        model = seeded(build, hidden_dropout_prob=0.1)
        callbacks = [validation(model, *names)] if names else []
        make_trainer(tmp_path, model, *callbacks, **EVALUATE).train()
        finals.append(copy_of(model))
    assert all(torch.equal(value, finals[1][name]) for name, value in finals[0].items())


def test_labels_of_the_target_reach_neither_a_score_nor_a_weight(tmp_path):
    """The whole run, chosen by a score: what the target's labels say changes no bit of it."""
    runs = []
    for number, labels in enumerate((True, list(range(14)), ["no"] * 14)):
        model = seeded(hidden_dropout_prob=0.1)
        source, target = rows_of(model, 16, seed=3), rows_of(model, 16, seed=4, labels=False)
        trainer = TransferTrainer(
            model,
            TransferArguments(
                **arguments(
                    tmp_path / str(number), **{**BEST, "metric_for_best_model": "mixval", "max_steps": 4}
                ).to_dict()
            ),
            train_dataset=mix_domains(source, target),
            eval_dataset=rows_of(model, 8, seed=5),
            objectives=[DomainAdversarial(hidden_size=8)],
            callbacks=[validation(model, labels=labels)],
        )
        trainer.train()
        history = [
            {key: value for key, value in entry.items() if "runtime" not in key and "per_second" not in key}
            for entry in trainer.state.log_history
        ]
        runs.append((copy_of(model), history, trainer.state.best_global_step))
    weights, history, best = runs[0]
    assert any("eval_mixval" in entry for entry in history)
    for other in runs[1:]:
        assert other[1:] == (history, best)
        assert all(torch.equal(value, other[0][name]) for name, value in weights.items())


def test_adapters_are_scored(tmp_path):
    model = lora(seeded(), ["query"], "classifier")
    trainer = make_trainer(tmp_path, model, validation(model, "snd", "dev"), **EVALUATE)
    trainer.train()
    assert len({value for _, value in entries(trainer)}) == 3
    assert all(value <= 0.5 for _, value in entries(trainer, "eval_dev"))


def test_the_processor_of_the_trainer_reads_raw_columns(tmp_path):
    from datasets import Dataset
    from PIL import Image
    from transformers import ViTImageProcessorPil

    model = seeded(tiny_vit)
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    images = [Image.new("RGB", (8, 8), (40 * shade, 0, 0)) for shade in range(6)]
    callback = TargetValidation(target=Dataset.from_dict({"image": images}))
    trainer = Trainer(
        model, arguments(tmp_path), eval_dataset=Rows(model), processing_class=processor, callbacks=[callback]
    )
    assert {"eval_entropy", "eval_mixval"} <= set(trainer.evaluate())


# bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"metric_for_best_model": "dev"},
            r'"dev" is not among what TargetValidation\(snd\) computes.*what `dev` needs',
        ),
        ({"metric_for_best_model": "eval_oracle_accuracy"}, '"oracle_accuracy" is not among'),
        ({"metric_for_best_model": "snd", "greater_is_better": False}, "greater_is_better=False.*Leave"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(options, message, tmp_path):
    model = seeded()
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, model, validation(model, "snd"), **options)


def test_other_metrics_may_choose(tmp_path):
    model = seeded()
    make_trainer(tmp_path, model, validation(model, "snd"), metric_for_best_model="loss", greater_is_better=False)


def test_a_choice_by_target_labels_is_pointed_out(tmp_path, caplog, monkeypatch):
    model = seeded()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    callback = validation(model, "snd", oracle=rows_of(model))
    with caplog.at_level("WARNING"):
        make_trainer(tmp_path, model, callback, metric_for_best_model="oracle_accuracy")
    assert "chosen by oracle_accuracy, that is by labels of the target" in caplog.text


def test_a_regression_is_refused_when_the_trainer_is_built(tmp_path):
    model = seeded(tiny_bert, num_labels=1)
    callback = TargetValidation(target=rows_of(model))
    with pytest.raises(ValueError, match="The model is a regression"):
        make_trainer(tmp_path, model, callback)


def test_a_model_made_by_a_function_is_checked_too(tmp_path):
    callback = TargetValidation(target=rows_of(seeded()))
    with pytest.raises(ValueError, match="The model is a regression"):
        Trainer(args=arguments(tmp_path), model_init=lambda: seeded(tiny_bert, num_labels=1), callbacks=[callback])


def test_a_model_without_data_is_checked_at_its_first_evaluation(tmp_path):
    model = seeded()
    trainer = make_trainer(tmp_path, model, validation(model, "snd"))
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="The model has several labels a row"):
        trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, {"eval_runtime": 1.0})


def test_construction_checks_names_and_data():
    model = seeded()
    with pytest.raises(ValueError, match='Did you mean "snd"'):
        validation(model, "sdn")
    with pytest.raises(ValueError, match="`dev` was asked for without `train_source`"):
        TargetValidation(target=rows_of(model), source=rows_of(model), validators=["dev"])
    with pytest.raises(ValueError, match="`source` has the columns .* and no `labels`"):
        TargetValidation(target=rows_of(model), source=rows_of(model, labels=False))
    with pytest.raises(TypeError, match="`target` is a Rows"):
        TargetValidation(target=Rows(model))


# ranks


@pytest.mark.slow
def test_two_ranks_have_the_scores_of_one(tmp_path):
    done = launch("tests.callbacks.validation_ranks", tmp_path / "two", ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]

    from tests.callbacks.validation_ranks import run

    one = run(tmp_path / "one")
    two = [torch.load(tmp_path / f"two-{rank}.pt") for rank in range(2)]
    assert two[0] == two[1]  # to the last bit: else one rank would stop and the other wait
    assert len(one) == len(two[0]) == 2
    for own, other in zip(one, two[0], strict=True):
        assert own == pytest.approx(other, rel=1e-2, abs=1e-3)
