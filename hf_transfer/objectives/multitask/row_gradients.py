"""How strongly the loss of each task pulls on what its head reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.multitask.heads import TaskHeads
from hf_transfer.multitask.task import Task


__all__ = ["row_gradient_norms"]


def row_gradient_norms(
    tasks: Sequence[Task], heads: TaskHeads, inputs: Sequence[Tensor], labels: Sequence[Tensor]
) -> Tensor:
    r"""
    $\sqrt{\frac{1}{n} \sum_i \lVert \partial l_{ik} / \partial f_i \rVert^2}$ over the $n$ labelled rows, for each
    task: the norm of the gradient of the loss of a row with respect to what the head reads, root mean square.

    Neither the backbone nor the parameters of the heads get a gradient by it.

    Args:
        tasks (`Sequence[Task]`): the tasks.
        heads (`TaskHeads`): their heads.
        inputs (`Sequence[Tensor]`): what each head reads, `(B, D)` or `(B, T, D)`.
        labels (`Sequence[Tensor]`): the labels of each task.

    Returns:
        `Tensor`: `(K,)`; 0 where a task has no labelled row.
    """
    return _eager(tasks, heads, inputs, labels)


def _measured(tasks: Sequence[Task], heads: TaskHeads, inputs: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    norms = []
    for task, features, given in zip(tasks, inputs, labels, strict=True):
        with torch.enable_grad():
            leaf = features.detach().requires_grad_()
            loss = task.loss(heads.logits(task, leaf), given)
        (gradient,) = torch.autograd.grad(loss, leaf)
        rows = given != UNLABELLED
        if task.kind in ("regression", "multi_label") and rows.dim() > 1:
            rows = rows.any(-1)  # a row has several values, or labels
        norms.append(gradient.norm() * rows.sum().sqrt())
    return torch.stack(norms).detach()


# The gradient is taken inside a forward, which `torch.compile` (torch 2.13) does not trace.
_eager: Any = torch.compiler.disable(_measured)
