from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_transfer.multitask.mixing import mix_tasks
from hf_transfer.multitask.sampler import tasks_of


TOPIC = Dataset.from_dict({"input_ids": [[1, 2], [3, 4]], "id": [1, 2], "label": [0, 1]})
STARS = Dataset.from_dict({"input_ids": [[5, 6]], "id": [3], "label": [4.5]})


def shout(batch):
    return {**batch, "text": [text.upper() for text in batch["text"]]}


def whisper(batch):
    return {**batch, "text": [f"({text})" for text in batch["text"]]}


def texts(task: str, values: list) -> Dataset:
    return Dataset.from_dict({"text": [f"{task}{number}" for number in range(len(values))], "label": values})


def test_no_format():
    assert mix_tasks({"topic": TOPIC, "stars": STARS}).format["type"] is None


def test_one_format_goes_on():
    mixed = mix_tasks({"topic": TOPIC.with_format("torch"), "stars": STARS.with_format("torch")})
    assert torch.equal(mixed[2]["labels_stars"], torch.tensor(4.5))
    assert mixed[:]["input_ids"].tolist() == [[1, 2], [3, 4], [5, 6]] and mixed[:]["task"].tolist() == [0, 0, 1]


def test_columns_of_a_format():
    parts = [data.with_format("torch", columns=["input_ids", "label"]) for data in (TOPIC, STARS)]
    mixed = mix_tasks({"topic": parts[0], "stars": parts[1]})
    assert set(mixed[0]) == {"input_ids", "labels_topic", "labels_stars", "task"}


def test_different_formats():
    with pytest.raises(ValueError, match="different formats: `torch`, `numpy`.*with_format"):
        mix_tasks({"topic": TOPIC.with_format("torch"), "stars": STARS.with_format("numpy")})


def test_a_transform_for_each_task():
    mixed = mix_tasks({"a": texts("a", [0, 1]).with_transform(shout), "b": texts("b", [0.5]).with_transform(whisper)})
    assert mixed[:]["text"] == ["A0", "A1", "(b0)"]
    assert mixed[:]["labels_a"] == [0, 1, -100] and mixed[:]["labels_b"] == [-100.0, -100.0, 0.5]
    assert set(mixed[0]) == {"text", "labels_a", "labels_b", "task"}
    assert mixed.shuffle(seed=1).select([0, 2])[:]["task"] == mixed.shuffle(seed=1)["task"][::2]


def test_a_transform_on_one_of_them():
    mixed = mix_tasks({"a": texts("a", [0, 1]), "b": texts("b", [0.5]).with_transform(whisper)})
    assert mixed[:]["text"] == ["a0", "a1", "(b0)"]


def test_a_transform_of_rows_of_several_tasks():
    data = texts("a", [0, 1]).add_column("stars", [0.5, None]).with_transform(shout)
    mixed = mix_tasks(data, label_columns={"topic": "label", "stars": "stars"})
    assert mixed[:] == {"text": ["A0", "A1"], "labels_topic": [0, 1], "labels_stars": [0.5, -100.0]}
    by_row = texts("a", [0, 1]).add_column("task", ["x", "y"]).with_transform(shout)
    assert mix_tasks(by_row)[:] == {"text": ["A0", "A1"], "labels_x": [0, -100], "labels_y": [-100, 1], "task": [0, 1]}


def test_inputs_are_not_decoded_for_mixing():
    def refuse(batch):
        raise AssertionError("inputs were decoded")

    parts = {name: texts(name, [0, 1]).with_transform(refuse) for name in "ab"}
    numbers = tasks_of(mix_tasks(parts))
    assert numbers is not None and numbers.tolist() == [0, 0, 1, 1]
