"""What each task gets of the training of all, counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_transfer import MultiTask
from hf_transfer.multitask.arguments import MultitaskLoopArguments
from hf_transfer.multitask.running import Share, shares_of_run
from tests.multitask.running_rows import STARS, TOPIC


def rows(first: int, second: int) -> Dataset:
    return Dataset.from_dict({"task": [0] * first + [1] * second})


def arguments(folder, **options) -> Any:
    return MultitaskLoopArguments(output_dir=str(folder), **{"use_cpu": True, "num_train_epochs": 1, **options})


def test_equal_tasks_have_half_of_every_batch(tmp_path):
    found = shares_of_run(MultiTask([TOPIC, STARS]), rows(16, 16), arguments(tmp_path, per_device_train_batch_size=8))
    assert found == {"topic": Share(4, 4), "stars": Share(4, 4)}


def test_a_small_task_is_seen_in_some_steps_only(tmp_path):
    objective = MultiTask([TOPIC, STARS])
    args = arguments(tmp_path, per_device_train_batch_size=4, num_train_epochs=3)
    found = shares_of_run(objective, rows(60, 4), args)
    assert found["topic"] == Share(48, 4) and found["stars"].batch_size == 1
    assert found["stars"].steps == 12  # four rows in each of three epochs


@pytest.mark.parametrize("sampling", ["proportional", "sqrt", "round_robin"])
def test_rows_seen_alone_are_those_seen_together(tmp_path, sampling):
    objective = MultiTask([TOPIC, STARS], sampling=sampling)
    args = arguments(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=2, max_steps=7)
    data = rows(90, 38)
    found = shares_of_run(objective, data, args)
    sampler: Any = objective.sampler(data, batch_size=8, ranks=1, seed=args.seed)
    assert sampler is not None
    drawn = np.array(list(sampler)[: 7 * 16]) >= 90
    for share, seen in zip(found.values(), (~drawn, drawn), strict=True):
        assert share.steps == int(seen.reshape(7, 16).any(1).sum())
        assert share.batch_size * 2 * share.steps == pytest.approx(seen.sum(), abs=share.steps)


def test_rows_of_all_tasks_are_seen_by_all(tmp_path):
    data = Dataset.from_dict({"labels_topic": [0] * 10, "labels_stars": [0.5] * 10})
    args = arguments(tmp_path, per_device_train_batch_size=4, num_train_epochs=2)
    assert shares_of_run(MultiTask([TOPIC, STARS]), data, args) == {"topic": Share(6, 4), "stars": Share(6, 4)}
