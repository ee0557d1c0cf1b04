"""`StepWeighting`: weights that change from one optimizer step to the next by what its micro-batches showed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from typing_extensions import Self

from hf_transfer.functional.task_weighting import running_mean
from hf_transfer.multitask.task import Task
from hf_transfer.objectives.multitask.weighting import TaskWeighting, check_positive


__all__ = ["StepWeighting"]


class StepWeighting(TaskWeighting):
    r"""
    The base of weightings that look back on the last steps, not on epochs: a fine-tuning has few of those.

    Losses are averaged over the micro-batches of an optimizer step and over the ranks, `2 K` numbers added up without
    a gradient, so that all ranks weigh alike and accumulation changes nothing. Weights change between steps only. A
    loss that is not finite is left out.

    Args:
        window (`int`, *optional*, defaults to 10):
            Optimizer steps: what the running means of the losses look back on, and how many of the first steps make
            the reference that later losses are compared with. Ours.

    Raises:
        ValueError: if `window` is below 1.
    """

    pending: Tensor
    """`(3, K)`: sums over the micro-batches of the step of losses and squared norms, and how many there were."""
    mean: Tensor
    """`(K,)`: running mean of the losses."""
    reference: Tensor
    """`(K,)`: mean loss over the first steps."""
    seen: Tensor
    """`(K,)`: steps with a labelled row of the task."""

    def __init__(self, *, window: int = 10):
        super().__init__()
        check_positive(self, window=window)
        self.window = window

    def build(self, tasks: Sequence[Task]) -> Self:
        """Make the buffers."""
        super().build(tasks)
        self.register_buffer("pending", torch.zeros(3, len(tasks)))
        self.register_buffer("mean", torch.zeros(len(tasks)))
        self.register_buffer("reference", torch.zeros(len(tasks)))
        self.register_buffer("seen", torch.zeros(len(tasks), dtype=torch.long))
        return self

    def forward(self, losses: Tensor, present: Tensor, norms: Tensor | None = None) -> Tensor:
        """The weighted losses of a micro-batch, which is taken note of."""
        self._observe(losses, present, norms)
        return super().forward(losses, present, norms)

    @torch.no_grad()
    def _observe(self, losses: Tensor, present: Tensor, norms: Tensor | None) -> None:
        squares = torch.zeros_like(losses) if norms is None else norms.square()
        counted = present & losses.isfinite() & squares.isfinite()
        shown = torch.where(counted, torch.stack([losses, squares, torch.ones_like(losses)]), 0).to(self.pending.dtype)
        # Added up at once, not at the end of the step: a checkpoint holds the buffers of rank 0, and DDP broadcasts
        # them.
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            distributed.all_reduce(shown)
        self.pending.add_(shown)

    @torch.no_grad()
    def begin_step(self) -> None:
        """Take in the mean over the micro-batches of the last step."""
        losses, squares, count = self.pending
        observed = count > 0
        count = count.clamp(min=1)
        before = self.mean.clone()
        mean, seen = running_mean(self.mean, self.seen, losses / count, observed, self.window)
        # In place: DDP holds on to the buffers it found when it was made.
        self.mean.copy_(mean)
        self.seen.copy_(seen)
        self.reference.copy_(torch.where(observed & (seen <= self.window), mean, self.reference))
        self.update(losses / count, before, (squares / count).sqrt(), observed)
        self.pending.zero_()

    def update(self, losses: Tensor, before: Tensor, norms: Tensor, observed: Tensor) -> None:
        """
        Write the weights for the next step into `self.weights`. Called where a step begins, also the first, without a
        gradient; `mean`, `reference` and `seen` are up to date.

        Args:
            losses (`Tensor`): `(K,)`, mean losses of the last step.
            before (`Tensor`): `(K,)`, the running mean as it was before that step.
            norms (`Tensor`): `(K,)`, of the gradients, the root mean square over the micro-batches.
            observed (`Tensor`): `(K,)` bool, which tasks had a labelled row in the step.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `update` and write into `self.weights`.")
