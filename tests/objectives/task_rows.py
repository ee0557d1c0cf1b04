"""Tasks of every kind and batches of theirs, for tests of several tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_transfer import ModelSpec, MultiTask, Task, TransferBatch
from tests.models import batch_for


TOPIC = Task("topic", num_labels=4)
STARS = Task("stars", "regression")
TAGS = Task("tags", "multi_label", num_labels=3)
WORDS = Task("words", "tokens", num_labels=5)
EVERY = (TOPIC, STARS, TAGS, WORDS)
ROWS_TASKS = (TOPIC, STARS, TAGS)


def labels_of(task: Task, rows: int, tokens: int, generator: torch.Generator) -> Tensor:
    if task.kind == "regression":
        return 3 * torch.randn(rows, generator=generator)
    if task.kind == "multi_label":
        return torch.randint(0, 2, (rows, task.num_labels), generator=generator).float()
    shape = (rows, tokens) if task.kind == "tokens" else (rows,)
    return torch.randint(0, task.num_labels, shape, generator=generator)


def columns(tasks: Sequence[Task], rows: int = 8, *, seed: int = 0, shared: bool = False) -> dict[str, Tensor]:
    """Label columns; the rows go round the tasks, or are all labelled for all of them (`shared`)."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for number, task in enumerate(tasks):
        labels = labels_of(task, rows, 6, generator)
        if not shared:
            labels[torch.arange(rows) % len(tasks) != number] = -100
        found[task.column] = labels
    return found


def task_batch(model, tasks: Sequence[Task], rows: int = 8, *, seed: int = 0, shared: bool = False):
    """A batch for a model with `MultiTask` attached."""
    batch = batch_for(model, rows, seed=seed, labelled=False)
    return {**batch, **columns(tasks, rows, seed=seed, shared=shared)}


def built(tasks: Sequence[Task], **options) -> MultiTask:
    """Without a model, for features 4 wide."""
    torch.manual_seed(0)
    return MultiTask(tasks, **options).build(ModelSpec(feature_dim=4, num_labels=2)).double()


def features_batch(tasks: Sequence[Task], rows: int = 8, *, seed: int = 0, shared: bool = False) -> TransferBatch:
    generator = torch.Generator().manual_seed(seed + 100)
    features = torch.randn(rows, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    return TransferBatch(features=features, columns=columns(tasks, rows, seed=seed, shared=shared))
