"""`TaskWeighting`: how much each of several tasks counts; as it stands, all alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.multitask.task import Task


__all__ = ["TaskWeighting", "check_positive"]


class TaskWeighting(nn.Module):
    r"""
    Equal weights: every task counts what its loss is. Subclass it for other weights.

    A subclass holds its state in buffers and parameters that it makes in `build`, so that a run resumes exactly. Its
    weights have the sum $K$, the number of tasks, so that the same learning rate serves ([`UncertaintyWeighting`] is
    the exception). A task
    without a labelled row in a micro-batch adds nothing, and the weights of the others do not change by it: they would
    otherwise depend on how rows fall into micro-batches and on ranks.

    Shape:
        - `losses`: `(K,)` float32, mean losses of the micro-batch.
        - `present`: `(K,)` bool, which tasks have a labelled row in it.
        - `norms`: `(K,)` float32, where the class sets `reads_gradients`.
        - returns: `(K,)` float32, weighted losses, whose sum is the term.

    Example:
        >>> from hf_transfer import Task
        >>> weighting = TaskWeighting().build([Task("topic", num_labels=4), Task("stars", "regression")])
        >>> weighting(torch.tensor([1.5, 2.0]), torch.tensor([True, True])).tolist()
        [1.5, 2.0]
    """

    reads_gradients: bool = False
    """Whether `forward` is to be given `norms`: of the gradient of the loss of a row with respect to what the head of
    the task reads, the root mean square over the labelled rows."""

    weights: Tensor

    def build(self, tasks: Sequence[Task]) -> Self:
        """Make parameters and buffers for the tasks. Returns itself."""
        self.register_buffer("weights", torch.ones(len(tasks)))
        return self

    def forward(self, losses: Tensor, present: Tensor, norms: Tensor | None = None) -> Tensor:
        """The weighted losses of a micro-batch."""
        # A copy, because the buffer may be written before the backward reads it.
        return self.weights.clone().to(losses.dtype) * losses

    def begin_step(self) -> None:
        """An optimizer step begins: what the micro-batches of the last one showed may change the weights."""

    def config(self) -> dict[str, Any]:
        """The hyper-parameters by name, as the constructor takes them."""
        return {}

    def extra_repr(self) -> str:
        """The hyper-parameters, for `print`."""
        return ", ".join(f"{name}={value}" for name, value in self.config().items())


def check_positive(method: object, **options: float) -> None:
    """
    Refuse options that are not above zero.

    Raises:
        ValueError: for the first of them.
    """
    for name, value in options.items():
        if not value > 0:
            raise ValueError(
                f"`{name}={value}` of {type(method).__name__} is not above zero: the weights of the tasks would never "
                "move, move the wrong way or be divided by zero. Give a positive number, or leave the option out."
            )
