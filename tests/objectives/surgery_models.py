"""A tiny model with three tasks, its batches, and the gradients of single tasks worked out one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_transfer import attach
from hf_transfer.multitask.task import Task
from hf_transfer.objectives.multitask.multi_task import MultiTask
from hf_transfer.objectives.multitask.task_gradients import shared_parameters
from tests.models import batch_for, tiny_bert


# Initialised wide, so that gradients are not tiny.
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
TASKS = (Task("topic", num_labels=3), Task("stars", "regression"), Task("flag", num_labels=2))


def bare(**options) -> nn.Module:
    torch.manual_seed(0)
    return tiny_bert(**{**QUIET, **options})


def with_tasks(surgery, *others, model=None, tasks=TASKS, weight=1.0) -> nn.Module:
    """The model in training with the tasks attached, the same each time it is made."""
    model = bare() if model is None else model
    torch.manual_seed(1)
    attach(model, [MultiTask(tasks, surgery=surgery, weight=weight), *others])
    return model.train()


def rows(count=6, *, seed=0, model=None) -> dict[str, Tensor]:
    """Rows with labels of all three tasks, which disagree."""
    batch = batch_for(bare() if model is None else model, count, seed=seed)
    generator = torch.Generator().manual_seed(seed + 50)
    batch.pop("domain")
    return {
        **batch,
        "labels": torch.full((count,), -100),
        "labels_topic": torch.randint(0, 3, (count,), generator=generator),
        "labels_stars": torch.randn(count, generator=generator) * 3,
        "labels_flag": torch.randint(0, 2, (count,), generator=generator),
    }


def part(batch: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    return {name: value[start:stop] for name, value in batch.items()}


def only(batch: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    """The batch with the labels of these tasks alone."""
    kept = {f"labels_{name}" for name in names}
    return {
        name: torch.full_like(value, -100) if name.startswith("labels_") and name not in kept else value
        for name, value in batch.items()
    }


def surgeon_of(model: nn.Module):
    return model.transfer_objectives["multi_task"].surgeon


def gradients(model: nn.Module, shared=True) -> dict[str, Tensor]:
    """The gradients of the backbone, or of the heads of the tasks."""
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and name.startswith("transfer_objectives.") != shared
    }


def task_rows(batch: dict[str, Tensor], model=None) -> Tensor:
    """`(K, N)`: the gradients of the tasks, each of a model that has labels of this task alone."""
    found = []
    for task in TASKS:
        alone = with_tasks(None, model=None if model is None else model())
        alone(**only(batch, task.name)).loss.backward()
        found.append(torch.cat([_gradient(p).flatten() for p in shared_parameters(alone)]))
    return torch.stack(found).double()


def flat(model: nn.Module) -> Tensor:
    return torch.cat([_gradient(p).flatten() for p in shared_parameters(model)]).double()


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
