"""Dynamic weight average (DWA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.functional.task_weighting import dynamic_average_weights
from hf_transfer.multitask.task import Task
from hf_transfer.objectives.multitask.step_weighting import StepWeighting
from hf_transfer.objectives.multitask.weighting import check_positive


__all__ = ["DynamicWeightAverage"]


class DynamicWeightAverage(StepWeighting):
    r"""
    Dynamic weight average (DWA): tasks whose loss falls more slowly count more.

    $$ w_k = K \operatorname{softmax}(r / T)_k, \qquad r_k = \bar L_k(t - 1) / \bar L_k(t - 2) $$

    with the mean losses $\bar L$ over the last two periods of `window` optimizer steps.

    Args:
        temperature (`float`, *optional*, defaults to 2.0):
            $T$ (dimensionless), the paper's; the larger, the more equal the weights.
        window (`int`, *optional*, defaults to 20):
            Length of a period, in optimizer steps. Ours.

    Shape:
        - as [`TaskWeighting`].

    Degenerate batches:
        An absent task adds an exact zero. One that is absent in a whole period keeps its last two, or the ratio 1.

    Deviations from the paper:
        Periods of some steps in place of epochs, of which a fine-tuning has about three. As in the paper, all weights
        are 1 in the first two.

    Raises:
        ValueError: if `temperature` is not positive or `window` is below 1.

    Relations:
        [`FastAdaptiveWeighting`] goes by the fall of the loss too, and follows it at every step.

    Example:
        >>> from hf_transfer import Task
        >>> tasks = [Task("topic", num_labels=4), Task("stars", "regression")]
        >>> weighting, present = DynamicWeightAverage(window=1).build(tasks), torch.tensor([True, True])
        >>> for losses in ([2.0, 2.0], [1.0, 2.0]):
        ...     _ = weighting(torch.tensor(losses), present)
        ...     weighting.begin_step()
        >>> [round(weight, 3) for weight in weighting.weights.tolist()]
        [0.876, 1.124]

    Paper: Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019, https://huggingface.co/papers/1803.10704
    """

    period: Tensor
    """`(2, K)`: sums of the losses of the period under way, and in how many of its steps the task was present."""
    steps: Tensor
    """Steps of the period under way."""
    periods: Tensor
    """`(2, K)`: mean losses of the last period and of the one before."""
    finished: Tensor
    """`(K,)`: periods in which the task was present."""

    def __init__(self, *, temperature: float = 2.0, window: int = 20):
        super().__init__(window=window)
        check_positive(self, temperature=temperature)
        self.temperature = temperature

    def build(self, tasks: Sequence[Task]) -> Self:
        """Make the buffers."""
        super().build(tasks)
        self.register_buffer("period", torch.zeros(2, len(tasks)))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("periods", torch.zeros(2, len(tasks)))
        self.register_buffer("finished", torch.zeros(len(tasks), dtype=torch.long))
        return self

    def update(self, losses: Tensor, before: Tensor, norms: Tensor, observed: Tensor) -> None:
        """Add to the period; where it ends, weigh anew."""
        self.period.add_(torch.where(observed, torch.stack([losses, torch.ones_like(losses)]), 0))
        self.steps.add_(observed.any())
        ended = self.steps >= self.window
        total, count = self.period
        closed = ended & (count > 0)
        means = torch.stack([total / count.clamp(min=1), self.periods[0]])
        self.periods.copy_(torch.where(closed, means, self.periods))
        self.finished.add_(closed)
        last, earlier = self.periods
        weights = dynamic_average_weights(last, earlier, self.finished >= 2, self.temperature)
        self.weights.copy_(torch.where(ended, weights, self.weights))
        self.period.copy_(torch.where(ended, 0, self.period))
        self.steps.copy_(torch.where(ended, 0, self.steps))

    def config(self) -> dict[str, Any]:
        """The hyper-parameters."""
        return {"temperature": self.temperature, "window": self.window}
