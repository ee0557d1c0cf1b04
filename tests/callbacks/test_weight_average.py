"""The moving average in a stock Trainer: what is averaged, who sees it when, and resume."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback

from hf_transfer.callbacks import FreezeBackbone, UnfreezingSchedule
from hf_transfer.callbacks.weight_average import RAW_WEIGHTS_NAME, ExponentialMovingAverage
from tests.callbacks.harness import PHASES, Crash, Recorder, Rows, arguments, changed, copy_of, make_trainer, seeded
from tests.models import lora, tiny_bert, tiny_resnet, tiny_vit


BUILDS = {
    "bert": tiny_bert,
    "vit": tiny_vit,
    "resnet": tiny_resnet,
    "bert in bfloat16": lambda: tiny_bert().bfloat16(),
    "bert lora": lambda: lora(tiny_bert(), ["query"], "classifier"),
    "vit lora": lambda: lora(tiny_vit(), ["q_proj"], "classifier"),
    "resnet lora": lambda: lora(tiny_resnet(), r".*encoder.*convolution", "classifier"),
}


class Shown(TrainerCallback):
    """Copies of what the model holds at each event."""

    def __init__(self):
        self.at = {}

    def note(self, event, state, kwargs):
        self.at.setdefault(event, {})[state.global_step] = copy_of(kwargs["model"])

    def on_train_begin(self, args, state, control, **kwargs):
        self.note("train_begin", state, kwargs)

    def on_step_begin(self, args, state, control, **kwargs):
        self.note("step_begin", state, kwargs)

    def on_substep_end(self, args, state, control, **kwargs):
        self.note("substep_end", state, kwargs)

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.note("optimizer_step", state, kwargs)

    def on_evaluate(self, args, state, control, **kwargs):
        self.note("evaluate", state, kwargs)


def assert_same(first, second):
    assert not changed(first, second)


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("name", ["bert", "resnet", "bert lora"])
def test_the_model_outside_of_steps_is_the_average_written_out(name, warmup, tmp_path):
    model, shown = seeded(BUILDS[name]), Shown()
    before = copy_of(model)
    options = {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 5}
    make_trainer(tmp_path, model, ExponentialMovingAverage(0.6, warmup=warmup), shown, **options).train()
    average = {key: value.double() for key, value in before.items()}
    for step in range(1, 6):
        raw = shown.at["optimizer_step"][step - 1]
        decay = min(0.6, (1 + step) / (10 + step)) if warmup else 0.6
        for key, value in raw.items():
            if key.endswith("num_batches_tracked"):
                average[key] = value.double()
            elif not value.equal(before[key]) or not average[key].equal(before[key].double()):
                average[key] = decay * average[key] + (1 - decay) * value.double()
        for key, value in shown.at["evaluate"][step].items():
            torch.testing.assert_close(value.double(), average[key], rtol=1e-5, atol=1e-6, msg=f"{step} {key}")
    assert_same(shown.at["evaluate"][5], copy_of(model))


@pytest.mark.parametrize("name", BUILDS)
def test_training_goes_on_from_the_raw_weights_as_if_nothing_was_averaged(name, tmp_path):
    plain, averaged = Shown(), Shown()
    options = {"gradient_accumulation_steps": 2, "max_steps": 5}
    # without evaluation: in the stock run this would see other weights, and nothing else differs
    make_trainer(tmp_path, seeded(BUILDS[name]), plain, **options).train()
    model = seeded(BUILDS[name])
    make_trainer(tmp_path, model, ExponentialMovingAverage(0.9), averaged, **options).train()
    for event in ("step_begin", "substep_end", "optimizer_step"):
        for step, weights in plain.at[event].items():
            assert_same(weights, averaged.at[event][step])
    assert changed(plain.at["optimizer_step"][4], copy_of(model))


@pytest.mark.parametrize("decay", [0.0])
def test_a_decay_of_zero_is_the_stock_trainer(decay, tmp_path):
    models = [seeded(tiny_resnet) for _ in range(2)]
    make_trainer(tmp_path, models[0]).train()
    make_trainer(tmp_path, models[1], ExponentialMovingAverage(decay)).train()
    for name, value in copy_of(models[0]).items():
        torch.testing.assert_close(copy_of(models[1])[name], value, msg=name)


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_checkpoints_hold_the_average_and_the_raw_weights_beside_it(strategy, tmp_path):
    model, shown = seeded(), Shown()
    options = {"save_strategy": strategy, "save_steps": 2, "max_steps": 8}  # an epoch is four steps
    make_trainer(tmp_path, model, ExponentialMovingAverage(0.9), shown, **options).train()
    for step in (4, 8):
        folder = tmp_path / f"checkpoint-{step}"
        raw = load_file(folder / RAW_WEIGHTS_NAME)
        for name, value in shown.at["optimizer_step"][step - 1].items():
            assert torch.equal(raw[f"raw.{name}"], value)
        saved = tiny_bert().from_pretrained(folder)
        if step == 8:
            assert_same(copy_of(model), copy_of(saved))
        else:
            assert changed(shown.at["step_begin"][step], copy_of(saved))


@pytest.mark.parametrize("step", [4, 6])
@pytest.mark.parametrize("name", BUILDS)
def test_a_run_killed_and_resumed_equals_the_straight_run_bit_for_bit(name, step, tmp_path):
    def trainer(*callbacks, folder):
        options = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
        model = seeded(BUILDS[name])
        return make_trainer(tmp_path / folder, model, ExponentialMovingAverage(0.9), *callbacks, **options)

    first, second = Shown(), Shown()
    straight = trainer(first, folder="straight")
    straight.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(Crash(step + 1), folder="killed").train()
    again = trainer(second, folder="killed")
    again.train(resume_from_checkpoint=str(tmp_path / "killed" / f"checkpoint-{step}"))
    assert_same(first.at["optimizer_step"][7], second.at["optimizer_step"][7])
    assert_same(copy_of(straight.model), copy_of(again.model))
    losses = [[log["eval_loss"] for log in run.state.log_history if "eval_loss" in log] for run in (straight, again)]
    assert losses[0] == losses[1]
    ours, theirs = again.optimizer.state_dict()["state"], straight.optimizer.state_dict()["state"]
    for index, state in theirs.items():
        assert all(torch.equal(value, ours[index][key]) for key, value in state.items())


def test_it_resumes_in_the_middle_of_a_freezing_schedule(tmp_path):
    def trainer(*callbacks, folder):
        both = [ExponentialMovingAverage(0.8), UnfreezingSchedule(PHASES)]
        return make_trainer(
            tmp_path / folder, seeded(tiny_resnet), *both, *callbacks, save_strategy="steps", save_steps=1
        )

    straight = trainer(folder="straight")
    straight.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(Crash(5), folder="killed").train()
    for step in (1, 4):
        again = trainer(folder=f"again-{step}")
        again.train(resume_from_checkpoint=str(tmp_path / "killed" / f"checkpoint-{step}"))
        assert_same(copy_of(straight.model), copy_of(again.model))


def test_frozen_parameters_are_not_averaged_and_thawed_ones_from_their_first_step(tmp_path):
    class Sizes(TrainerCallback):
        seen = []

        def on_step_end(self, args, state, control, **kwargs):
            self.seen.append(len(average._weights.averages))

    average, model = ExponentialMovingAverage(0.9), seeded()
    phases = [{"train": "head"}, {"step": 2, "train": ["head", "neck"]}]
    # the schedule thaws after the average has had its turn
    make_trainer(tmp_path, model, average, UnfreezingSchedule(phases), Sizes(), max_steps=4).train()
    assert Sizes.seen == [2, 2, 4, 4]
    model = seeded()
    before = copy_of(model)
    make_trainer(tmp_path, model, FreezeBackbone(), ExponentialMovingAverage(0.9), max_steps=4).train()
    assert changed(before, copy_of(model)) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("name", ["bert", "vit", "resnet", "bert lora", "vit lora"])
def test_the_best_model_is_the_average_that_was_evaluated(name, tmp_path):
    """The metric is best at the second of four evaluations; names that transformers renames on save included."""
    model, shown, scores = seeded(BUILDS[name]), Shown(), iter([1.0, 3.0, 2.0, 0.0])
    rows = Rows(model.get_base_model() if hasattr(model, "get_base_model") else model)
    options = {
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "score",
    }
    trainer = Trainer(
        model,
        arguments(tmp_path, **options),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=lambda predictions: {"score": next(scores)},
        callbacks=[ExponentialMovingAverage(0.5), shown],
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    best, final = shown.at["evaluate"][4], copy_of(model)
    different = changed(best, final)
    # adapter files have no room for the statistics of batch normalisation
    assert not {key for key in different if "running" not in key and "num_batches" not in key}
    if "lora" not in name:
        assert not different
    assert changed(shown.at["evaluate"][8], best)


def test_the_final_model_and_its_file_are_the_average(tmp_path):
    model, shown = seeded(), Shown()
    trainer = make_trainer(tmp_path, model, ExponentialMovingAverage(0.9), shown)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    saved = tiny_bert().from_pretrained(tmp_path / "final")
    assert_same(copy_of(model), copy_of(saved))
    assert changed(shown.at["optimizer_step"][7], copy_of(saved))
    assert not (tmp_path / "final" / RAW_WEIGHTS_NAME).exists()


def test_a_second_training_starts_from_the_average(tmp_path):
    callback, shown = ExponentialMovingAverage(0.9), Shown()
    trainer = make_trainer(tmp_path, seeded(), callback, shown, max_steps=3)
    trainer.train()
    end = copy_of(trainer.model)
    trainer.train()
    assert_same(end, shown.at["step_begin"][0])


def test_after_a_crash_the_next_run_is_sound(tmp_path):
    callback, model = ExponentialMovingAverage(0.9), seeded()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, model, callback, Crash(3)).train()
    before, other = copy_of(model), seeded()
    other.load_state_dict(before)
    for run, average in ((model, callback), (other, ExponentialMovingAverage(0.9))):
        make_trainer(tmp_path, run, average, max_steps=3).train()
    assert_same(copy_of(model), copy_of(other))


def test_compiled_is_eager(tmp_path):
    states = []
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        model = seeded()
        make_trainer(tmp_path, model, ExponentialMovingAverage(0.9), optim="sgd", max_steps=3, **options).train()
        states.append(copy_of(model))
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-6, msg=name)


def saved_run(tmp_path, *callbacks):
    folder = tmp_path / "run"
    make_trainer(folder, seeded(), *callbacks, save_strategy="steps", save_steps=2, max_steps=4).train()
    return folder


def resumed(folder, checkpoint, **options):
    trainer = make_trainer(folder, seeded(), ExponentialMovingAverage(0.9), max_steps=4, **options)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return copy_of(trainer.model)


def test_a_checkpoint_without_the_raw_weights_is_refused(tmp_path):
    folder = saved_run(tmp_path, ExponentialMovingAverage(0.9))
    (folder / "checkpoint-2" / RAW_WEIGHTS_NAME).unlink()
    with pytest.raises(ValueError, match=r"No raw_weights.safetensors of this run and step 2.*complete checkpoint"):
        resumed(folder, folder / "checkpoint-2")


def test_a_checkpoint_of_a_run_without_an_average_is_refused(tmp_path):
    folder = saved_run(tmp_path)
    with pytest.raises(ValueError, match=r"written without ExponentialMovingAverage - there is no average"):
        resumed(folder, folder / "checkpoint-2")


def test_a_checkpoint_is_found_where_it_was_written_or_where_the_arguments_say(tmp_path):
    folder = saved_run(tmp_path, ExponentialMovingAverage(0.9))
    end = load_file(folder / "checkpoint-4" / "model.safetensors")
    elsewhere = tmp_path / "elsewhere"
    # another run's checkpoint of the same step is not mistaken for it
    make_trainer(
        elsewhere, tiny_bert(), ExponentialMovingAverage(0.9), save_strategy="steps", save_steps=2, max_steps=2
    ).train()
    assert not {name for name, value in resumed(elsewhere, folder / "checkpoint-2").items() if name in end and
                not torch.equal(value, end[name])}  # fmt: skip
    moved = tmp_path / "moved" / "checkpoint-2"
    shutil.copytree(folder / "checkpoint-2", moved)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"if it was moved, name it in TrainingArguments"):
        resumed(tmp_path / "new", moved)
    again = resumed(tmp_path / "new", moved, resume_from_checkpoint=str(moved))
    assert all(torch.equal(value, again[name]) for name, value in end.items())


def test_callbacks_that_the_trainer_restores_itself(tmp_path):
    folder = saved_run(tmp_path, ExponentialMovingAverage(0.9))
    options = {"restore_callback_states_from_checkpoint": True, "max_steps": 4}
    trainer = make_trainer(folder, seeded(), ExponentialMovingAverage(0.1), **options)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    end = load_file(folder / "checkpoint-4" / "model.safetensors")
    assert all(torch.equal(value, end[name]) for name, value in copy_of(trainer.model).items())


def test_nothing_is_written_where_no_run_can_be_resumed(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "save_only_model": True}
    make_trainer(tmp_path, seeded(), ExponentialMovingAverage(), **options).train()
    assert (tmp_path / "checkpoint-2").is_dir() and not (tmp_path / "checkpoint-2" / RAW_WEIGHTS_NAME).exists()


@pytest.mark.parametrize("decay", [1.0, -0.5, 2])
def test_decays_outside_are_refused(decay):
    with pytest.raises(ValueError, match=rf"`decay={decay}` is outside \[0, 1\).*such as 0.999"):
        ExponentialMovingAverage(decay)


def test_saving_in_the_middle_of_a_step_is_refused(tmp_path):
    callback, args = ExponentialMovingAverage(), arguments(tmp_path)
    args.enable_jit_checkpoint = True
    with pytest.raises(ValueError, match=r"with enable_jit_checkpoint .* set save_steps low enough"):
        callback.on_init_end(args, None, None, model=tiny_bert())


def test_fsdp_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"ExponentialMovingAverage under FSDP .* use DDP"):
        ExponentialMovingAverage().on_init_end(arguments(tmp_path), None, None, model=tiny_bert())


def test_it_prints_as_the_call_that_makes_it():
    assert str(ExponentialMovingAverage()) == "ExponentialMovingAverage(decay=0.999, warmup=True)"


def test_recorders_before_it_see_the_raw_weights(tmp_path):
    first, second = Recorder(), Recorder()
    make_trainer(tmp_path, seeded(), first, ExponentialMovingAverage(), second).train()
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        assert_same(ours, theirs)
