"""The trainer of several tasks: what it trains, scores, predicts, saves and refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, TrainerCallback

from hf_transfer import MultiTask, MultiTaskTrainer, Task, TransferArguments, as_task, mix_tasks
from hf_transfer.adapters import add_adapter
from hf_transfer.multitask.collator import TaskCollator
from hf_transfer.objectives import L2SP
from tests.models import tiny_bert, tiny_token_bert, tiny_vit
from tests.multitask.running_rows import STARS, TASKS, TOPIC, WORDS, mixed, scored, task_rows


def arguments(folder, **options) -> Any:
    defaults = {
        "per_device_train_batch_size": 6,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TransferArguments(output_dir=str(folder), **{**defaults, **options})


def trainer_of(folder, tasks: Any = TASKS, make=tiny_bert, **options):
    torch.manual_seed(0)
    kwargs = {key: options.pop(key) for key in ("weighting", "surgery", "objectives", "callbacks") if key in options}
    names = tasks.tasks if isinstance(tasks, MultiTask) else tasks
    return MultiTaskTrainer(
        make(),
        arguments(folder, **options),
        tasks=tasks,
        train_dataset=mixed(names),
        eval_dataset=scored(names),
        **kwargs,
    )


@pytest.mark.parametrize("peft", [False, True])
def test_backbone_and_all_heads_learn_and_the_model_s_own_head_does_not(tmp_path, peft):
    def make():
        model = tiny_bert()
        return add_adapter(model, "lora") if peft else model

    trainer = trainer_of(tmp_path, make=make, weight_decay=0.0, logging_steps=4)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    own_head = {name for name in before if "classifier" in name and "transfer_objectives" not in name}
    assert own_head and not moved & own_head
    assert {f"transfer_objectives.multi_task.heads.{task.name}.weight" for task in TASKS} <= moved
    assert any(("lora" in name) == peft for name in moved if "encoder" in name)
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {"loss_multi_task", "multi_task_loss_topic", "multi_task_weight_stars"} <= logged


def test_every_task_is_scored_as_its_own_model_would_be(tmp_path):
    trainer = trainer_of(tmp_path)
    metrics = trainer.evaluate()
    names = {"eval_topic_accuracy", "eval_topic_macro_f1", "eval_stars_mse", "eval_stars_pearson", "eval_tags_f1"}
    assert names <= metrics.keys()
    assert metrics["eval_mean"] == pytest.approx(
        np.mean([metrics["eval_topic_accuracy"], metrics["eval_stars_pearson"], metrics["eval_tags_f1"]])
    )
    assert metrics["eval_loss"] == pytest.approx(np.mean([metrics[f"eval_{task.name}_loss"] for task in TASKS]))
    folder = trainer.export_task("topic", tmp_path / "topic")
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    rows: Any = scored()["topic"].with_format("torch")[:]
    with torch.no_grad():
        output = plain(**rows)
    assert metrics["eval_topic_loss"] == pytest.approx(output.loss.item(), rel=1e-5)
    right = (output.logits.argmax(-1) == rows["labels"]).float().mean().item()
    assert metrics["eval_topic_accuracy"] == pytest.approx(right)


def test_predictions_of_every_task(tmp_path):
    trainer = trainer_of(tmp_path, (TOPIC, STARS, WORDS))
    datasets = scored((TOPIC, WORDS))
    output: Any = trainer.predict(datasets)
    assert {name: array.shape for name, array in output.predictions.items()} == {"topic": (6, 3), "words": (6, 5, 2)}
    np.testing.assert_array_equal(output.label_ids["words"], datasets["words"]["labels"][:])
    assert {"test_topic_accuracy", "test_words_f1", "test_mean"} <= output.metrics.keys()
    unlabelled: Any = datasets["topic"].remove_columns("labels")
    alone: Any = trainer.predict_task("topic", unlabelled)
    np.testing.assert_array_equal(alone.predictions, output.predictions["topic"])
    assert "test_topic_accuracy" not in alone.metrics and alone.label_ids is None


def test_the_best_checkpoint_is_loaded_with_its_heads(tmp_path):
    class Spoil(TrainerCallback):
        """Ruin the heads after the first epoch, so that the second validates worse."""

        def on_epoch_begin(self, args, state, control, **kwargs):
            if state.epoch and state.epoch >= 1:
                for parameter in trainer.multi_task.heads.parameters():
                    parameter.data.mul_(-100)

    epochs = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = trainer_of(tmp_path, callbacks=[Spoil()], metric_for_best_model="loss", **epochs)
    trainer.train()
    scores = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(scores) == 2 and scores[0] < scores[1]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(scores[0], rel=1e-5)


def test_on_evaluate_is_told_of_all_tasks_at_once(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            seen.append(set(metrics or ()))

    trainer_of(tmp_path, callbacks=[Watch()]).evaluate(metric_key_prefix="late")
    assert len(seen) == 1 and {"late_topic_accuracy", "late_tags_f1", "late_mean", "late_loss"} <= seen[0]


def test_a_model_made_by_a_function_and_images(tmp_path):
    pixels = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
    rows = Dataset.from_dict({"pixel_values": pixels.tolist(), "labels": [0, 1] * 4}).with_format("torch")
    tasks = [Task("odd", num_labels=2), Task("size", "regression")]
    values = rows.remove_columns("labels").add_column("labels", [0.5, 1.0] * 4).with_format("torch")
    trainer: Any = MultiTaskTrainer(
        args=arguments(tmp_path, max_steps=2),
        tasks=tasks,
        model_init=lambda: tiny_vit(),
        train_dataset=mix_tasks({"odd": rows, "size": values}, tasks),
        eval_dataset={"odd": rows},
    )
    trainer.train()
    assert {"eval_odd_accuracy", "eval_mean"} <= trainer.evaluate().keys()
    assert trainer.export_task("size", tmp_path / "size").name == "size"


def test_the_objective_may_be_given_and_other_terms_stand_beside_it(tmp_path):
    objective = MultiTask([TOPIC, STARS], weighting="uncertainty", sampling="round_robin")
    trainer = trainer_of(tmp_path, objective, objectives=[L2SP(weight=0.1)], max_steps=2)
    assert trainer.multi_task is objective and list(trainer.objectives.by_name) == ["multi_task", "l2sp"]
    trainer.train()
    with pytest.raises(ValueError, match="`weighting` beside a `MultiTask`: it has options of its own, and these"):
        trainer_of(tmp_path, MultiTask([TOPIC]), weighting="dwa")


@pytest.mark.parametrize("peft", [False, True])
def test_a_trained_surgery_is_exported(tmp_path, peft):
    def make():
        return add_adapter(tiny_bert(), "lora") if peft else tiny_bert()

    trainer = trainer_of(tmp_path, surgery="pcgrad", weighting="famo", make=make, max_steps=3)
    trainer.train()
    exported = trainer.export_tasks(tmp_path / "tasks")
    assert set(exported) == {"topic", "stars", "tags"}
    assert all((folder / "model.safetensors").is_file() for folder in exported.values())


def test_collators(tmp_path):
    trainer: Any = trainer_of(tmp_path, (WORDS,), tiny_token_bert)
    assert isinstance(trainer.data_collator, TaskCollator) and trainer.data_collator.of_tokens
    own = TaskCollator(torch.utils.data.default_collate, TASKS)
    given: Any = MultiTaskTrainer(tiny_bert(), arguments(tmp_path), tasks=TASKS, data_collator=own)
    assert given.data_collator is own and not own.of_tokens


def test_metrics_of_one_s_own(tmp_path):
    trainer: Any = MultiTaskTrainer(
        tiny_bert(),
        arguments(tmp_path),
        tasks=TASKS,
        eval_dataset=scored(),
        compute_metrics=lambda output: {"rows": float(len(output.predictions))},
    )
    metrics = trainer.evaluate()
    assert metrics["eval_stars_rows"] == 6.0 and "eval_mean" not in metrics and "eval_loss" in metrics


def test_resumed_training_is_straight_training(tmp_path):
    straight = trainer_of(tmp_path / "a", weighting="dwa", max_steps=6)
    straight.train()
    first = trainer_of(tmp_path / "b", weighting="dwa", max_steps=6, save_steps=3, save_strategy="steps")
    first.train()
    second = trainer_of(tmp_path / "b", weighting="dwa", max_steps=6, save_strategy="no")
    second.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-3"))
    for name in straight.tasks:
        with as_task(straight.model.eval(), name), as_task(second.model.eval(), name):
            rows: Any = task_rows(TOPIC).remove_columns("labels").with_format("torch")[:]
            assert torch.equal(straight.model(**rows).logits, second.model(**rows).logits)


def test_what_it_refuses(tmp_path):
    with pytest.raises(ValueError, match="`eval_dataset` is a Dataset: it does not say of which task its `labels` ar"):
        MultiTaskTrainer(tiny_bert(), arguments(tmp_path), tasks=TASKS, eval_dataset=task_rows(TOPIC))
    with pytest.raises(ValueError, match="has data for mood, which is no task: there is no head to score. The tasks"):
        MultiTaskTrainer(tiny_bert(), arguments(tmp_path), tasks=TASKS, eval_dataset={"mood": task_rows(TOPIC)})
    trainer = trainer_of(tmp_path)
    with pytest.raises(ValueError, match="There is no data set to evaluate: no task would have a score. Give one for"):
        trainer.evaluate({})
    with pytest.raises(ValueError, match="no task `mood`"):
        trainer.predict_task("mood", task_rows(TOPIC))
    with pytest.raises(ValueError, match="no task `mood`"):
        trainer.export_task("mood", tmp_path / "mood")
    surgery: Any = {"surgery": "pcgrad"}
    with pytest.raises(ValueError, match="torch_compile.* Leave the model uncompiled"):
        MultiTaskTrainer(tiny_bert(), arguments(tmp_path, torch_compile=True), tasks=TASKS, **surgery)
