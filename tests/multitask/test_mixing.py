from __future__ import annotations

from collections import Counter

import pytest
import torch
from datasets import ClassLabel, Dataset, concatenate_datasets

import hf_transfer
from hf_transfer import TransferArguments, TransferTrainer, mix_tasks
from hf_transfer.data.preparation import collator_for
from hf_transfer.multitask.collator import TaskCollator
from hf_transfer.multitask.inference import infer_tasks
from hf_transfer.multitask.sampler import TaskSampler
from hf_transfer.multitask.task import Task
from hf_transfer.objectives.multitask.multi_task import MultiTask
from tests.models import tiny_bert
from tests.multitask.words import word_tokenizer


NAMES = ["a", "b", "c"]
RAW = {
    "topic": Dataset.from_dict({"text": ["good salt", "bad sweet in Rome", "Anna"] * 8, "label": [0, 1, 2] * 8}),
    "stars": Dataset.from_dict({"sentence": ["good", "bad"] * 4, "label": [4.5, 1.0] * 4}),
    "tags": Dataset.from_dict({"text": ["salty good", "bad"] * 2, "labels": [[1, 0], [1, 1]] * 2}),
    "ner": Dataset.from_dict({"tokens": [["Anna", "salty"], ["Rome"]] * 6, "ner_tags": [[1, 0], [2]] * 6}),
}
RAW["topic"] = RAW["topic"].cast_column("label", ClassLabel(names=NAMES))
TASKS = (
    Task("topic", label_names=NAMES),
    Task("stars", "regression"),
    Task("tags", "multi_label", num_labels=2),
    Task("ner", "tokens", num_labels=3),
)


@pytest.fixture(scope="module")
def mixed() -> Dataset:
    return mix_tasks(RAW, TASKS, processor=word_tokenizer())


def test_is_exported():
    assert hf_transfer.mix_tasks is mix_tasks and "mix_tasks" in hf_transfer.__all__


def test_raw_data_sets_of_every_kind(mixed):
    assert len(mixed) == 48 and Counter(mixed["task"][:]) == {0: 24, 1: 8, 2: 4, 3: 12}
    assert [name for name in mixed.column_names if name.startswith("labels_")] == [task.column for task in TASKS]
    for number, task in enumerate(TASKS):
        for row in mixed:
            value = torch.as_tensor(row[task.column])
            assert bool((value != -100).any()) == (row["task"] == number)
    assert mixed[24]["labels_stars"] == 4.5 and mixed[36]["labels_ner"] == [-100, 1, 0, -100, -100]


def test_the_tasks_are_inferred():
    assert infer_tasks(RAW) == TASKS
    assert mix_tasks(RAW, processor=word_tokenizer()).features["labels_topic"] == ClassLabel(names=NAMES)


def test_raw_data_sets_of_different_inputs_need_a_processor():
    with pytest.raises(ValueError, match="other input columns .* lacks `text` and has `sentence`.*`processor=`"):
        mix_tasks(RAW)


def test_label_columns_of_some_data_sets():
    other = RAW["topic"].add_column("labels", [0] * 24)
    with pytest.raises(ValueError, match="2 columns that may hold the labels"):
        mix_tasks({"topic": other})
    mixed = mix_tasks({"topic": other}, label_columns={"topic": "label"})
    assert mixed["labels_topic"][:] == [0, 1, 2] * 8 and mixed.column_names == ["text", "labels_topic", "task"]


def test_rows_of_one_task_and_of_several_are_not_the_same():
    one_each = mix_tasks({"a": RAW["topic"], "b": RAW["topic"]})
    both = mix_tasks(RAW["topic"].add_column("other", [0, 1] * 12), label_columns={"a": "label", "b": "other"})
    assert len(one_each) == 48 and "task" in one_each.column_names
    assert len(both) == 24 and "task" not in both.column_names


def test_twice_the_same_task():
    with pytest.raises(ValueError, match="two tasks are called `topic`"):
        mix_tasks({"topic": RAW["topic"]}, [TASKS[0], TASKS[0]])


def test_without_the_library(monkeypatch):
    monkeypatch.setattr("hf_transfer.multitask.mixing.is_datasets_available", lambda: False)
    with pytest.raises(ImportError, match="`datasets`, which is not installed.*pip install"):
        mix_tasks(RAW)


# --- training ------------------------------------------------------------------------------------------------------


def trainer(data: Dataset, folder, **options) -> TransferTrainer:
    torch.manual_seed(0)
    model = tiny_bert()
    arguments = {"max_steps": 6, "per_device_train_batch_size": 8, "save_steps": 3, "learning_rate": 1e-3}
    return TransferTrainer(
        model,
        TransferArguments(
            output_dir=str(folder),
            use_cpu=True,
            report_to=[],
            logging_steps=1,
            disable_tqdm=True,
            **{**arguments, **options},
        ),
        objectives=[MultiTask(TASKS)],
        train_dataset=data,
        data_collator=TaskCollator.for_model(collator_for(word_tokenizer()), TASKS, model),
    )


def test_batches_of_a_training_run(mixed, tmp_path):
    run = trainer(mixed, tmp_path)
    assert isinstance(run._get_train_sampler(), TaskSampler)
    batches = list(run.get_train_dataloader())
    assert len(batches) == 6
    for batch in batches:
        assert set(batch) >= {"input_ids", "labels", "task", *(task.column for task in TASKS)}
        counts = torch.bincount(batch["task"], minlength=4)
        assert counts[0] == 4 and counts[3] == 2 and counts.sum() == 8
    assert sum(int((batch["task"] == 2).sum()) for batch in batches) == 4


def test_every_task_is_learned_and_a_run_resumes_exactly(mixed, tmp_path):
    straight = trainer(mixed, tmp_path / "straight")
    before = {name: value.detach().clone() for name, value in straight.model.named_parameters()}
    straight.train()
    after = dict(straight.model.named_parameters())
    for task in TASKS:
        moved = [not torch.equal(before[name], after[name]) for name in before if f"heads.{task.name}." in name]
        assert moved == [True, True]
    logged = straight.state.log_history[0]
    assert all(logged[f"multi_task_loss_{task.name}"] > 0 for task in TASKS) and logged["loss_task"] == 0
    resumed = trainer(mixed, tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    for name, value in resumed.model.named_parameters():
        assert torch.equal(value, after[name]), name


def test_rows_for_several_tasks_are_shuffled_by_the_trainer(tmp_path):
    data = Dataset.from_dict({"input_ids": [[1, 2]] * 8, "topic": [0, 1] * 4, "stars": [0.5, None] * 4})
    tasks = TASKS[:2]
    run = TransferTrainer(
        tiny_bert(),
        TransferArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], per_device_train_batch_size=4),
        objectives=[MultiTask(tasks)],
        train_dataset=mix_tasks(data, tasks),
        data_collator=TaskCollator(collator_for(word_tokenizer()), tasks),
    )
    assert not isinstance(run._get_train_sampler(), TaskSampler)
    batch = next(iter(run.get_train_dataloader()))
    assert batch["labels_stars"].shape == (4,) and "task" not in batch


def test_rows_of_an_unknown_task_are_refused_before_training(mixed, tmp_path):
    stranger = mixed.select([0]).map(lambda row: {"task": 4})
    with pytest.raises(ValueError, match="`task`.* 4"):
        trainer(concatenate_datasets([mixed, stranger]), tmp_path).train()
