"""Tiny data sets of several tasks, made of numbers."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from hf_transfer.multitask.task import Task


TOPIC = Task("topic", label_names=("art", "law", "sport"))
STARS = Task("stars", "regression")
TAGS = Task("tags", "multi_label", num_labels=2)
WORDS = Task("words", "tokens", label_names=("O", "B-X"))
TASKS = (TOPIC, STARS, TAGS)


def task_rows(task: Task, rows: int = 8, *, seed: int = 0) -> Dataset:
    """Prepared rows of one task: `input_ids`, `attention_mask` and `labels`, all of five tokens."""
    random = np.random.default_rng([seed, len(task.name)])
    ids = random.integers(1, 50, (rows, 5))
    labels = {
        "classification": (ids[:, 0] + ids[:, 1]) % task.num_labels,
        "regression": ids[:, 0] / 25.0 - 1,
        "multi_label": np.stack([ids[:, 0] > 25, ids[:, 1] > 25], 1).astype(int),
        "tokens": (ids > 25).astype(int),
    }[task.kind]
    return Dataset.from_dict(
        {"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist(), "labels": labels.tolist()}
    )


def mixed(tasks=TASKS, rows: int = 8) -> Dataset:
    """Training rows of all tasks as one data set."""
    from hf_transfer.multitask.mixing import mix_tasks

    return mix_tasks({task.name: task_rows(task, rows) for task in tasks}, tasks)


def scored(tasks=TASKS) -> dict[str, Dataset]:
    """Rows of each task to evaluate it on."""
    return {task.name: task_rows(task, 6, seed=1) for task in tasks}
