"""`GradientSurgery`: combines the gradients of several tasks in place of adding them up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.gradient_surgery import (
    cagrad_coefficients,
    mean_conflict,
    mgda_coefficients,
    nash_coefficients,
    pcgrad_coefficients,
    random_orders,
    upgrad_coefficients,
)
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.multitask.heads import TaskHeads
from hf_transfer.objectives.multitask import surgery_checks as checks
from hf_transfer.objectives.multitask.branching import Leaves, delivered, views
from hf_transfer.objectives.multitask.rank_sums import sum_over_ranks
from hf_transfer.objectives.multitask.task_gradients import TaskGradients, shared_parameters


Method = Literal["pcgrad", "cagrad", "nash", "upgrad", "mgda"]
METHODS: tuple[Method, ...] = ("pcgrad", "cagrad", "nash", "upgrad", "mgda")

__all__ = ["METHODS", "GradientSurgery", "Method"]


class GradientSurgery(nn.Module):
    r"""
    Gradient surgery: the shared backbone gets a combination of the gradients of the tasks in place of their sum.

    With the gradients $g_k$ of the $K$ tasks, the backbone gets $\sum_k c_k g_k$ with coefficients that depend on the
    inner products $\langle g_k, g_l \rangle$ alone, worked out anew in each optimizer step. The heads of the tasks,
    and parameters of a loss weighting, keep their own gradients. With equal gradients every
    method gives the plain sum.

    Args:
        method (`str`):
            `"pcgrad"` (each gradient loses what points against another one), `"cagrad"` (near the mean gradient, the
            direction that helps the worst task most), `"nash"` (the combination all would agree to, whatever the
            scales of their losses), `"upgrad"` (no negative product with any gradient) or `"mgda"` (the shortest
            vector between them).
        on (`str`, *optional*, defaults to `"parameters"`):
            Which gradients. `"parameters"`: those of the trained parameters that the tasks share, as in the papers:
            $K + 1$ passes backward through the backbone and memory for $K + 1$ copies of the shared gradients.
            `"representation"`: those of the features that all heads read: one pass. Two tasks then meet only in rows
            that are labelled for both.
        c (`float`, *optional*, defaults to 0.4):
            For `"cagrad"`: how far from the mean gradient to look, as a share of its length, in [0, 1) (dimensionless;
            the paper's value for NYUv2).
        seed (`int`, *optional*, defaults to 0):
            For `"pcgrad"`: of the order in which gradients meet, which is drawn in each step, alike on all ranks.

    Attributes:
        conflict (`Tensor`): share of the pairs of tasks whose gradients had a negative product in the last micro-batch
            (in the sums of the step so far, for parameters).

    Shape:
        - `branch`: as many tensors as tasks, and as many back.
        - `total`: from the `(K,)` losses, as weighted, to a scalar.

    Degenerate batches:
        A task without a labelled row has a gradient of zero and takes no part; the others are combined as if it were
        not there. Without any, the gradient is an exact zero.

    Deviations from the paper:
        Coefficients are scaled so that equal gradients give their sum; see `hf_transfer.functional.gradient_surgery`.
        Where micro-batches are accumulated, the gradients combined are those of the whole step.

    Raises:
        ValueError: if the method or the place is unknown, or `c` is not in [0, 1); at attach time, when the data is
            inspected, in `check_arguments` and in the first batches, where the surgery cannot be what it is on one
            device with one large batch: over accumulated micro-batches, separate tensors or separate rows
            (representation), under FSDP, DeepSpeed, `torch.compile` or reentrant checkpointing (parameters).

    Relations:
        A weighting of the losses changes how much a task counts, and is cheaper; surgery changes the direction, and
        sees the losses as weighted. `"nash"` and `"upgrad"` need no tuning. TorchJD combines gradients too, but
        writes them into `.grad` itself, past DDP, accumulation and the GradScaler, with solvers of its own to install.

    Example:
        >>> surgery = GradientSurgery("pcgrad", on="representation")
        >>> features = torch.ones(1, 2, requires_grad=True)
        >>> first, second = surgery.branch([features, features])
        >>> losses = torch.stack([first[0, 0], (second * torch.tensor([-1.0, 1.0])).sum()])
        >>> surgery.total(losses, TransferBatch(features=features)).backward()
        >>> features.grad  # [1, 0] and [-1, 1], each without what points against the other
        tensor([[0.5000, 1.5000]])

    Paper: Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, https://huggingface.co/papers/2001.06782
    """

    steps: Tensor
    conflict: Tensor

    def __init__(
        self,
        method: Method | str,
        *,
        on: Literal["parameters", "representation"] | str = "parameters",
        c: float = 0.4,
        seed: int = 0,
    ):
        super().__init__()
        checks.check_choice("method", method, METHODS)
        checks.check_choice("on", on, ("parameters", "representation"))
        if not 0 <= c < 1:
            raise ValueError(
                f"`c={c}` of CAGrad: it is a share of the length of the mean gradient, and from 1 on the direction "
                "can point away from it. Give a number in [0, 1), such as 0.4."
            )
        self.method, self.on, self.c, self.seed = method, on, c, seed
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("conflict", torch.zeros(()), persistent=False)
        self._columns: list[str] = []
        self._begun = True
        self._leaves: Leaves | None = None
        self._gradients = TaskGradients()

    def build(self, spec: ModelSpec, heads: TaskHeads) -> Self:
        """
        Look at the heads of the tasks; called when the objective is attached. Returns itself.

        Raises:
            ValueError: on representation, if some tasks read features of rows and others states of tokens.
        """
        self._columns = [task.column for task in heads.tasks]
        if self.on == "representation" and heads.states and any(task.kind != "tokens" for task in heads.tasks):
            checks.refuse_separate_tensors()
        return self

    @property
    def diagnostics(self) -> dict[str, Tensor]:
        """What to log beside the losses: the share of conflicting pairs of tasks."""
        return {"conflict": self.conflict}

    def begin_step(self) -> None:
        """An optimizer step begins, before the first of its micro-batches."""
        self._begun = True
        self._gradients.reset()

    # Not for `torch.compile` (torch 2.13): ranks talk to each other in the backward, and buffers are written there.
    @torch.compiler.disable
    def branch(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """
        What each head is given in place of what it would read.

        Raises:
            ValueError: on representation, if the tasks read different tensors.
        """
        self._leaves = None
        if not any(tensor.requires_grad for tensor in inputs):
            return list(inputs)  # a frozen backbone has nothing to combine
        if self.on == "representation":
            checks.check_one_tensor(inputs)
            return views(inputs[0], len(inputs), self._combined)
        self._leaves = Leaves(inputs)
        return self._leaves.inputs

    @torch.compiler.disable
    def total(self, losses: Tensor, batch: TransferBatch) -> Tensor:
        """
        The sum of the losses, whose backward delivers the combined gradient to the backbone.

        Args:
            losses (`Tensor`): `(K,)`, as weighted, of the heads that were given what [`branch`] returned.
            batch (`TransferBatch`): of the micro-batch, with its model.

        Raises:
            ValueError: on representation, in the second micro-batch of a step; on parameters, if they are sharded.
        """
        parameters = [] if batch.model is None else shared_parameters(batch.model)
        leaves, self._leaves = self._leaves, None
        first = self._first_of_step(parameters)
        total = losses.sum()
        if self.on == "representation":
            if not first:
                checks.refuse_accumulation()
            return total
        if leaves is None or not parameters:
            return total
        checks.check_parameters(parameters)
        with torch.autocast(total.device.type, enabled=False):
            with checks.backward_explained():
                found = self._gradients.contribution(losses, leaves, parameters, self._coefficients)
        return delivered(total, *found)

    def _first_of_step(self, parameters: Sequence[Tensor]) -> bool:
        # In a loop that does not tell when a step begins, gradients that were cleared do.
        first = self._begun or (len(parameters) > 0 and all(parameter.grad is None for parameter in parameters))
        if first:
            self._gradients.reset()
            self._begun = False
            with torch.no_grad():
                self.steps += 1
        return first

    def _combined(self, gradients: Tensor) -> Tensor:
        rows = gradients.double() if gradients.device.type != "mps" else gradients.float()
        # The rows of all ranks are those of one large batch: products over them add up.
        gram = sum_over_ranks(rows @ rows.T)
        return self._coefficients(gram).to(gradients.dtype) @ gradients

    def _coefficients(self, gram: Tensor) -> Tensor:
        with torch.no_grad():
            self.conflict.copy_(mean_conflict(gram))
            if self.method == "pcgrad":
                return pcgrad_coefficients(gram, random_orders(self.steps + self.seed * 1_000_003, len(gram)))
            if self.method == "cagrad":
                return cagrad_coefficients(gram, self.c)
            methods = {"nash": nash_coefficients, "upgrad": upgrad_coefficients, "mgda": mgda_coefficients}
            return methods[self.method](gram)

    def check_arguments(self, args: Any) -> None:
        """
        Refuse training arguments under which the surgery cannot work, before anything is trained.

        Args:
            args (`TrainingArguments`): of the run.

        Raises:
            ValueError: naming the argument.
        """
        checks.check_arguments(args, cast(str, self.on))

    def inspect(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        """
        Refuse data on which surgery of the representation never sees two tasks meet.

        Args:
            model (`nn.Module`): the model; not looked at.
            batches (`Iterable[Mapping]`): collated batches of the training set; read until a row is found that is
                labelled for two tasks, on representation only.

        Raises:
            ValueError: if there is none.
        """
        if self.on == "representation":
            checks.check_rows(any(_shares_rows(batch, self._columns) for batch in batches), self.method)

    def config(self) -> dict[str, Any]:
        """The options by name, as the constructor takes them."""
        return {"method": self.method, "on": self.on, "c": self.c, "seed": self.seed}

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return ", ".join(f"{name}={value}" for name, value in self.config().items())


def _shares_rows(batch: Mapping[str, Any], columns: Sequence[str]) -> bool:
    """Whether a row of the batch is labelled for two tasks."""
    given = [batch[column] != UNLABELLED for column in columns if column in batch]
    labelled = [mask.reshape(len(mask), -1).any(1) for mask in given]
    return len(labelled) > 0 and bool((torch.stack(labelled).sum(0) > 1).any())
