"""`MultiTask`: several tasks on one backbone, each with a head of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.multitask.heads import TaskHeads
from hf_transfer.multitask.task import Task, check_tasks
from hf_transfer.objective import Objective
from hf_transfer.schedules import Schedule


__all__ = ["MultiTask"]


class MultiTask(Objective):
    r"""
    Multi-task learning: a head for each task on the features of one backbone (hard parameter sharing).
    """

    replaces_task_loss = True

    def __init__(self, tasks: Sequence[Task], *, weight: float | Schedule = 1.0):
        super().__init__(weight=weight)
        self.tasks = check_tasks(tasks)
        self.optional_columns = ("task", *(task.column for task in self.tasks))
        self.heads: TaskHeads

    def build(self, spec: ModelSpec) -> Self:
        """Make the heads."""
        self.heads = TaskHeads(self.tasks, spec)
        self.hidden_states = (self.heads.states,) if self.heads.states else ()
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """The sum of the losses of the tasks."""
        losses = []
        for task in self.tasks:
            labels = batch.columns[task.column]
            inputs = self.heads.read(task, batch.features, batch.hidden_states)
            losses.append(task.weight * task.loss(self.heads.logits(task, inputs), labels))
        return torch.stack(losses).sum()
