"""`as_task`: a model of several tasks as if it were the model of one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer.attach import CHILD
from hf_transfer.multitask.task import Task
from hf_transfer.objectives.multitask.multi_task import MultiTask
from hf_transfer.tap import HeadTap, HiddenStateTaps


__all__ = ["as_task", "multi_task_of", "task_named"]


def multi_task_of(model: nn.Module) -> MultiTask:
    """
    The objective that holds the heads of a model's tasks.

    Raises:
        ValueError: if none is attached.
    """
    attached = getattr(model, CHILD, None)
    found = [] if attached is None else [one for one in attached.values() if isinstance(one, MultiTask)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no tasks attached: it has one head, its own. Attach them first, "
            "`attach(model, [MultiTask(tasks)])`, or train with `MultiTaskTrainer(model, args, tasks=tasks)`."
        )
    return found[0]


def task_named(objective: MultiTask, name: str) -> Task:
    """
    The task of that name.

    Raises:
        ValueError: if there is none.
    """
    found = next((task for task in objective.tasks if task.name == name), None)
    if found is None:
        raise ValueError(
            f"There is no task `{name}`: the model has no head for it. Its tasks are "
            f"{', '.join(task.name for task in objective.tasks)}; give one of these."
        )
    return found


@contextmanager
def as_task(model: nn.Module, name: str) -> Iterator[Task]:
    """
    Within the block the model returns the logits of one task and, where the batch has `labels`, its loss.

    The labels are those of the task, whatever head the model itself has. Nothing of the model changes; what is
    computed is what the folder that [`export_task`] writes computes.

    Args:
        model (`nn.Module`):
            With the tasks attached, in evaluation mode, also under PEFT; not wrapped for devices.
        name (`str`):
            Name of the task.

    Yields:
        `Task`: the task.

    Shape:
        - `logits`: `(B, C)`, or `(B, T, C)` for tokens, float32; loss as [`Task.loss`].

    Raises:
        ValueError: if there is no such task, or the model is called in training mode, where its loss is that of all
            tasks.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from hf_transfer.attach import attach
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config).eval()
        >>> _ = attach(model, [MultiTask([Task("topic", num_labels=4), Task("stars", "regression")])])
        >>> with as_task(model, "topic"):
        ...     model(input_ids=torch.ones(2, 3, dtype=torch.long)).logits.shape
        torch.Size([2, 4])
    """
    view = _View(model, multi_task_of(model), name)
    try:
        yield view.task
    finally:
        view.remove()


class _View:
    """The hooks by which a model is seen as one task."""

    def __init__(self, model: nn.Module, objective: MultiTask, name: str):
        self.task = task_named(objective, name)
        self.heads = objective.heads
        self._labels: Tensor | None = None
        self._inputs: dict[str, Any] = {}
        attached: Any = getattr(model, CHILD)
        self._tap = HeadTap(model, attached.attachment.anatomy.head)
        self._states = HiddenStateTaps(model, [self.heads.states] if self.heads.states else [])
        self._tap.open = self._states.open = True
        # after those of the attachment, which take the columns of objectives out of the batch
        self._hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]

    def _before(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if model.training:
            raise ValueError(
                f"The model was called in training mode as task `{self.task.name}`: it would compute the loss of all "
                "tasks. Call `model.eval()` first, or leave the block `with as_task(...)` to train."
            )
        self._labels = kwargs.get("labels")
        self._inputs = {key: value for key, value in kwargs.items() if key != "labels"}
        if args:
            self._inputs.setdefault(getattr(model, "main_input_name", "input_ids"), args[0])
        return args, {key: value for key, value in kwargs.items() if key != "labels"}

    def _after(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        named = isinstance(output, Mapping)
        own: Tensor = output["logits"] if named else output[0]
        with torch.autocast(own.device.type, enabled=False):
            features = self._tap.take(own, self._inputs)
            logits = self.heads.logits(self.task, self.heads.read(self.task, features, self._states.take()))
            loss = None if self._labels is None else self.task.loss(logits, self._labels)
        self._labels, self._inputs = None, {}
        if not named:
            return (*(() if loss is None else (loss,)), logits, *output[1:])
        changed: Any = output
        changed["logits"] = logits
        if loss is not None:
            changed["loss"] = loss
        return changed

    def remove(self) -> None:
        """Take all hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._tap.remove()
        self._states.remove()
