from __future__ import annotations

import logging

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks import FreezeBackbone, GradualUnfreezing, UnfreezingSchedule
from tests.callbacks.harness import (
    METRIC_PHASES,
    PHASES,
    Crash,
    Recorder,
    Rows,
    arguments,
    changed,
    copy_of,
    make_trainer,
    seeded,
)
from tests.models import lora, tiny_bert, tiny_resnet, tiny_vit


def expected_parameters(model, *parts) -> set[str]:
    return {name for part in parts for name in anatomy(model).parts()[part]}


def test_each_phase_trains_what_it_names_from_the_step_it_names(tmp_path):
    model, record = seeded(), Recorder()
    blocks = ("block.0", "block.1", "block.2")
    stages = [
        expected_parameters(model, "head"),
        expected_parameters(model, "head", "block.2"),
        expected_parameters(model, "head", "neck", "embeddings", *blocks),
    ]
    make_trainer(tmp_path, model, UnfreezingSchedule(PHASES), record).train()
    assert [stages.index(step["trains"]) for step in record.steps] == [0, 0, 1, 1, 1, 1, 2, 2]
    assert all(step["has_grad"] == step["trains"] for step in record.steps)


def test_rates_are_real_and_follow_the_scheduler(tmp_path):
    record = Recorder()
    trainer = make_trainer(tmp_path, seeded(), UnfreezingSchedule(PHASES), record, logging_steps=1)
    trainer.train()
    decay = [1 - step / 8 for step in range(8)]
    base = [1e-2] * 2 + [5e-3] * 4 + [1e-3] * 2
    expected = [rate * factor for rate, factor in zip(base, decay, strict=True)]
    for group in range(2):
        assert [step["rates"][group] for step in record.steps] == pytest.approx(expected, rel=1e-12)
    logged = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    assert logged == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd", "rmsprop"])
def test_frozen_parameters_do_not_move_by_a_bit_whatever_the_optimizer(optimizer, tmp_path):
    model, record = seeded(), Recorder()
    # Everything trains at first, so that momentum and weight decay would have something to act on.
    phases = [{"train": "all"}, {"step": 3, "train": "head"}]
    extra = {"optim_args": "momentum=0.9"} if optimizer == "sgd" else {}
    make_trainer(tmp_path, model, UnfreezingSchedule(phases), record, max_steps=6, optim=optimizer, **extra).train()
    assert len(changed(record.weights[1], record.weights[2])) > 40
    for step in range(3, 6):
        assert changed(record.weights[step - 1], record.weights[step]) == {"classifier.weight", "classifier.bias"}


def test_phases_change_between_optimizer_steps_under_accumulation(tmp_path):
    model, record = seeded(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), Recorder()
    seen: list[tuple[int, bool]] = []

    class Micro(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            seen.append((state.global_step, kwargs["model"].bert.pooler.dense.weight.requires_grad))

    phases = [{"train": "all"}, {"step": 2, "train": "head"}, {"step": 3, "train": ["head", "neck"]}]
    make_trainer(
        tmp_path,
        model,
        UnfreezingSchedule(phases),
        record,
        Micro(),
        max_steps=5,
        gradient_accumulation_steps=4,
        per_device_train_batch_size=1,
    ).train()
    assert seen == [(step, step != 2) for step in range(5) for _ in range(3)]
    assert changed(record.weights[1], record.weights[2]) == {"classifier.weight", "classifier.bias"}


def test_optimizer_state_exists_only_for_what_has_trained(tmp_path):
    model = seeded()
    trainer = make_trainer(tmp_path, model, UnfreezingSchedule([{"train": ["head", "block.2"]}]), max_steps=2)
    trainer.train()
    assert len(trainer.optimizer.state) == len(expected_parameters(model, "head", "block.2"))
    held = sum(len(group["params"]) for group in trainer.optimizer.param_groups)
    assert held == len(list(model.parameters()))


def test_a_metric_that_is_not_reported_stops_the_run_at_once(tmp_path):
    phases = [{"train": "head"}, {"when": "f1", "train": "all"}]
    trainer = make_trainer(tmp_path, seeded(), UnfreezingSchedule(phases), eval_strategy="steps", eval_steps=1)
    with pytest.raises(KeyError, match="waits for eval_f1, but evaluation reports .*eval_loss"):
        trainer.train()
    assert trainer.state.global_step == 1
    trainer = make_trainer(
        tmp_path, seeded(), UnfreezingSchedule(phases), eval_strategy="steps", eval_steps=1, eval_on_start=True
    )
    with pytest.raises(KeyError, match="waits for eval_f1"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_epochs_are_those_of_the_trainer(tmp_path):
    record = Recorder()
    phases = [{"train": "head"}, {"epoch": 1, "train": ["head", "neck"]}, {"epoch": 2, "train": "all"}]
    # 16 rows in batches of 3, two per optimizer step: six batches, three steps to an epoch.
    trainer = make_trainer(
        tmp_path,
        seeded(),
        UnfreezingSchedule(phases),
        record,
        max_steps=-1,
        num_train_epochs=3,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
    )
    trainer.train()
    assert [len(step["trains"]) for step in record.steps] == [2] * 3 + [4] * 3 + [
        len(list(trainer.model.parameters()))
    ] * 3


def test_a_stream_is_one_epoch_as_long_as_the_training(tmp_path):
    record, model = Recorder(), seeded()
    rows = Rows(model)

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield from (rows[index] for index in range(len(rows)))

    phases = [{"train": "head"}, {"epoch": 0.5, "train": ["head", "neck"]}]
    Trainer(
        model, arguments(tmp_path, max_steps=4), train_dataset=Stream(), callbacks=[UnfreezingSchedule(phases), record]
    ).train()
    assert [len(step["trains"]) for step in record.steps] == [2, 2, 4, 4]


@pytest.mark.parametrize("build", [tiny_bert, tiny_vit])
def test_activation_checkpointing_gives_the_same_weights(build, tmp_path):
    runs = []
    # The second name is that of transformers before 5.23.
    name = (
        "activation_checkpointing"
        if hasattr(TrainingArguments, "activation_checkpointing")
        else "gradient_checkpointing"
    )
    for checkpointing in (False, True):
        model = seeded(build)
        make_trainer(tmp_path, model, GradualUnfreezing(stages=3), **{name: checkpointing}).train()
        runs.append(copy_of(model))
    assert not changed(*runs)


def test_reentrant_checkpointing_is_refused_before_the_first_step(tmp_path):
    model = seeded()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": True})
    trainer = make_trainer(tmp_path, model, GradualUnfreezing(stages=2))
    with pytest.raises(ValueError, match="use_reentrant=True"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_adapters_thaw_block_by_block_and_the_base_model_never_does(tmp_path):
    model, record = lora(seeded(), ["query", "value"], "classifier"), Recorder()
    adapters = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    make_trainer(tmp_path, model, GradualUnfreezing(stages=4), record).train()
    layers = [
        sorted({name.split("layer.")[1][0] for name in step["trains"] if "layer." in name}) for step in record.steps
    ]
    assert layers == [[], [], ["2"], ["2"], ["1", "2"], ["1", "2"], ["0", "1", "2"], ["0", "1", "2"]]
    assert all(step["trains"] <= adapters for step in record.steps)
    assert record.steps[-1]["trains"] == adapters
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == adapters


@pytest.mark.slow
@pytest.mark.parametrize("build", [tiny_vit, tiny_resnet])
def test_a_compiled_model_trains_as_an_eager_one(build, tmp_path):
    runs, initial = [], copy_of(seeded(build))
    for compiled in (False, True):
        model = seeded(build, **({} if build is tiny_resnet else {"hidden_dropout_prob": 0.0}))
        options = {"torch_compile": True, "torch_compile_backend": "aot_eager"} if compiled else {}
        make_trainer(tmp_path, model, UnfreezingSchedule(PHASES), optim="sgd", **options).train()
        runs.append(copy_of(model))
    assert len(changed(initial, runs[1])) > 10
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_after_a_crash_the_same_callback_starts_afresh(tmp_path):
    model, schedule, crash = seeded(), FreezeBackbone(), Crash(1)
    trainer = make_trainer(tmp_path, model, schedule, crash, max_steps=2)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not model.bert.pooler.dense.weight.requires_grad, "nothing tells a callback of an exception"
    trainer.remove_callback(crash)
    trainer.train()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_after_a_crash_another_trainer_finds_the_model_thawed(tmp_path):
    model = seeded()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, model, FreezeBackbone(), Crash(1), max_steps=2).train()
    record = Recorder()
    make_trainer(tmp_path, model, UnfreezingSchedule([{"train": "all"}]), record, max_steps=1).train()
    assert record.steps[0]["trains"] == {name for name, _ in model.named_parameters()}


def test_training_twice_works(tmp_path):
    record = Recorder()
    trainer = make_trainer(tmp_path, seeded(), UnfreezingSchedule(PHASES), record)
    trainer.train()
    first = list(record.steps)
    record.steps.clear()
    trainer.train()
    assert [step["trains"] for step in record.steps] == [step["trains"] for step in first]
    assert [step["rates"] for step in record.steps] == [step["rates"] for step in first]


def test_a_model_made_anew_for_each_run_is_frozen_too(tmp_path):
    record, model = Recorder(), seeded()
    trainer = Trainer(
        args=arguments(tmp_path, max_steps=2),
        train_dataset=Rows(model),
        model_init=lambda: seeded(),
        callbacks=[FreezeBackbone(), record],
    )
    trainer.train()
    trainer.train()
    assert [step["trains"] for step in record.steps] == [{"classifier.weight", "classifier.bias"}] * 4


def test_two_freezing_callbacks_are_refused(tmp_path):
    trainer = make_trainer(tmp_path, seeded(), FreezeBackbone(), GradualUnfreezing(stages=2))
    with pytest.raises(ValueError, match="Two freezing callbacks rule the same model"):
        trainer.train()


def test_what_was_frozen_by_hand_and_is_to_thaw_is_refused(tmp_path):
    model = seeded()
    model.bert.requires_grad_(False)
    with pytest.raises(ValueError, match="had requires_grad=False when training began"):
        make_trainer(tmp_path, model, GradualUnfreezing(stages=2)).train()
    make_trainer(tmp_path, model, FreezeBackbone(), max_steps=1).train()
    assert not model.bert.pooler.dense.weight.requires_grad, "frozen by hand before, frozen after"


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (UnfreezingSchedule([{"train": "heads"}]), {}, "`heads` is no part"),
        (UnfreezingSchedule([{"train": "block.3"}]), {}, "`block.3` is no range .* at most `block.2`"),
        (UnfreezingSchedule([{"train": "head"}, {"step": 1, "train": "*.typo.*"}]), {}, r"`\*.typo.\*` is no part"),
        (GradualUnfreezing(stages=5), {}, "stages=5 needs 4 groups of blocks"),
        (UnfreezingSchedule(METRIC_PHASES), {}, "eval_strategy is 'no'"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_trainer_is_built(schedule, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, seeded(), schedule, **options)


def test_a_callback_added_later_is_checked_when_training_begins(tmp_path):
    trainer = make_trainer(tmp_path, seeded())
    trainer.add_callback(UnfreezingSchedule([{"train": "heads"}]))
    with pytest.raises(ValueError, match="`heads` is no part"):
        trainer.train()


def test_rates_need_a_scheduler_that_is_a_function_of_the_step(tmp_path):
    options = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 4}
    options |= {"metric_for_best_model": "loss"}
    with pytest.raises(ValueError, match="ReduceLROnPlateau computes each rate from the one before"):
        make_trainer(tmp_path, seeded(), UnfreezingSchedule(PHASES), **options).train()
    make_trainer(tmp_path, seeded(), GradualUnfreezing(stages=2), **options).train()


def test_phases_beyond_the_end_are_told_of(tmp_path, caplog):
    phases = [{"train": "head"}, {"step": 500, "train": "all"}]
    with caplog.at_level(logging.WARNING, logger="hf_transfer"):
        make_trainer(tmp_path, seeded(), UnfreezingSchedule(phases), max_steps=1).train()
    assert caplog.messages == ["Phase 2 (step 500: all) never trains: it would begin at step 500 of 1."]


def test_the_summary_is_logged_once(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="hf_transfer"):
        make_trainer(tmp_path, seeded(), GradualUnfreezing(stages=2), max_steps=2).train()
    tables = [message for message in caplog.messages if "parameters" in message]
    assert len(tables) == 1 and tables[0].splitlines()[1].split()[:2] == ["part", "parameters"]


def test_a_summary_before_training_needs_only_the_model():
    model = seeded()
    table = UnfreezingSchedule(PHASES).summary(model, learning_rate=1e-2)
    assert table.splitlines()[-2].split() == ["head", "51", "0.01", "0.005", "0.001"]
    assert "trains" in FreezeBackbone().summary(model)


def test_a_schedule_is_read_from_the_yaml_it_writes(tmp_path):
    path = tmp_path / "schedule.yaml"
    schedule = UnfreezingSchedule(PHASES)
    path.write_text(schedule.to_yaml())
    assert UnfreezingSchedule(path).phases == UnfreezingSchedule(str(path)).phases == schedule.phases
    path.write_text("# empty\n")
    with pytest.raises(TypeError, match="The phases are None .* give a list of phases"):
        UnfreezingSchedule(path)
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        UnfreezingSchedule(tmp_path / "nowhere.yaml")
