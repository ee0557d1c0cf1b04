"""Fast adaptive multitask optimization (FAMO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.functional.task_weighting import adam_step, famo_gradient, famo_weights
from hf_transfer.multitask.task import Task
from hf_transfer.objectives.multitask.step_weighting import StepWeighting
from hf_transfer.objectives.multitask.weighting import check_positive


FLOOR = 1e-3
"""A loss below this share of its first ones counts as that share: its logarithm falls without end."""

__all__ = ["FastAdaptiveWeighting"]


class FastAdaptiveWeighting(StepWeighting):
    r"""
    Fast adaptive multitask optimization (FAMO): all losses are to fall at the same rate, seen from losses alone.

    The model descends $\sum_k z_k \log L_k$ with $z = \operatorname{softmax}(\xi)$, that is the losses with weights in
    proportion to $z_k / \bar L_k$, and the logits follow what the losses did,

    $$ \xi \leftarrow \xi - \beta \left( J^\top \delta + \gamma \xi \right), \qquad \delta_k = \log \bar L_k(t) - \log
    \bar L_k(t + 1) $$

    with the Jacobian $J$ of the softmax and the steps of Adam: what improved more than the others counts less.

    Args:
        rate (`float`, *optional*, defaults to 0.025):
            $\beta$, the learning rate of the logits (dimensionless); the paper's.
        decay (`float`, *optional*, defaults to 1e-3):
            $\gamma$ (dimensionless), how strongly the logits are drawn back to equal ones; the paper's.
        window (`int`, *optional*, defaults to 10):
            Optimizer steps that the running means $\bar L$ look back on. Ours.

    Shape:
        - as [`TaskWeighting`].

    Degenerate batches:
        An absent task adds an exact zero, and its logit stays but for the decay; one that was never present has the
        weight 1. A loss below a thousandth of its first ones counts as that in the weights.

    Deviations from the paper:
        The paper computes the losses of the same rows a second time after the step. Here there is no second forward:
        running means are compared from step to step; their noise adds up to nothing over many steps. The sum of the
        weights is $K$ in place of $\sum_k z_k / L_k$ times the paper's constant.

    Raises:
        ValueError: if `rate` is not positive, `decay` is negative or `window` is below 1.

    Relations:
        [`DynamicWeightAverage`] compares longer periods and forgets what was before. [`UncertaintyWeighting`] also
        weighs by the inverse of the loss, without looking at its fall.

    Example:
        >>> from hf_transfer import Task
        >>> tasks = [Task("topic", num_labels=4), Task("stars", "regression")]
        >>> weighting, present = FastAdaptiveWeighting(window=1).build(tasks), torch.tensor([True, True])
        >>> for losses in ([1.0, 3.0], [1.0, 3.0]):
        ...     _ = weighting(torch.tensor(losses), present)
        ...     weighting.begin_step()
        >>> [round(weight, 3) for weight in weighting.weights.tolist()]
        [1.5, 0.5]

    Paper: Liu et al., "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, https://huggingface.co/papers/2306.03792
    """

    logits: Tensor
    moments: Tensor
    steps: Tensor

    def __init__(self, *, rate: float = 0.025, decay: float = 1e-3, window: int = 10):
        super().__init__(window=window)
        check_positive(self, rate=rate)
        if decay < 0:
            raise ValueError(
                f"`decay={decay}` is negative: the weights would be driven apart without end. Give 0 or a small "
                "positive number such as the default 1e-3."
            )
        self.rate = rate
        self.decay = decay

    def build(self, tasks: Sequence[Task]) -> Self:
        """Make the logits and the moments of their gradient."""
        super().build(tasks)
        self.register_buffer("logits", torch.zeros(len(tasks)))
        self.register_buffer("moments", torch.zeros(2, len(tasks)))
        self.register_buffer("steps", torch.tensor(0))
        return self

    def update(self, losses: Tensor, before: Tensor, norms: Tensor, observed: Tensor) -> None:
        """Move the logits by what the losses did in the last step, and weigh anew."""
        floor = FLOOR * self.reference
        compared = observed & (self.seen > 1)
        improvement = torch.maximum(before, floor).clamp(min=1e-12).log()
        improvement = improvement - torch.maximum(self.mean, floor).clamp(min=1e-12).log()
        gradient = famo_gradient(self.logits, torch.where(compared, improvement, 0), compared, self.decay)
        moved = compared.any()
        moments, change = adam_step(self.moments, gradient, self.steps + 1, rate=self.rate)
        self.moments.copy_(torch.where(moved, moments, self.moments))
        self.logits.add_(torch.where(moved, change, 0))
        self.steps.add_(moved)
        self.weights.copy_(famo_weights(self.logits, torch.maximum(self.mean, floor), self.seen > 0))

    def config(self) -> dict[str, Any]:
        """The hyper-parameters."""
        return {"rate": self.rate, "decay": self.decay, "window": self.window}
