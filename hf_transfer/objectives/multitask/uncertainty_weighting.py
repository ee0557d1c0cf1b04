"""Uncertainty weighting (UW)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.functional.task_weighting import uncertainty_loss, uncertainty_weights
from hf_transfer.multitask.task import Task
from hf_transfer.objectives.multitask.weighting import TaskWeighting, check_positive


START = -0.5

__all__ = ["UncertaintyWeighting"]


class UncertaintyWeighting(TaskWeighting):
    r"""
    Uncertainty weighting (UW): every task learns how noisy its labels are, and counts the less the noisier they are.

    With a log variance $s_k = \log \sigma_k^2$ for each task, learned with the weights of the model,

    $$ \sum_k c_k \, e^{-s_k} L_k + \tfrac{1}{2} s_k, \qquad c_k = \tfrac{1}{2} \text{ for a regression, } 1 \text{ for
    classes} $$

    Args:
        speed (`float`, *optional*, defaults to 20.0):
            How many times further an optimizer such as AdamW moves a log variance than another parameter of an
            objective (dimensionless). At the rate of 5e-5 of a fine-tuning they move 1e-3 a step, as where models are
            trained from scratch; at 1 they would stay where they start.

    Shape:
        - as [`TaskWeighting`]; the parameter is `(K,)`, starts with all $s_k = -0.5$ and has no weight decay.

    Degenerate batches:
        An absent task adds an exact zero, and its log variance has the gradient zero.

    Deviations from the paper:
        Tasks of several labels and of tokens count as classes. Weights end at $e^{10}$. They are not scaled to the sum
        $K$ as those of the other weightings are: a task that is fitted to a loss near zero would then take all weight
        from the others. `speed` is ours: what is stored is the change of $s$ divided by it, with a gradient divided by
        it too, so that clipping is not ruled by it; plain SGD moves $s$ as in the paper, whatever the speed.

    Raises:
        ValueError: if `speed` is not positive.

    Relations:
        [`DynamicWeightAverage`] and [`FastAdaptiveWeighting`] go by how fast losses fall, not by how large they are.

    Example:
        >>> from hf_transfer import Task
        >>> tasks = [Task("topic", num_labels=4), Task("stars", "regression")]
        >>> weighting = UncertaintyWeighting().build(tasks)
        >>> [round(loss, 4) for loss in weighting(torch.ones(2), torch.tensor([True, True])).tolist()]
        [1.6487, 0.8244]

    Paper: Kendall et al., "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics", https://huggingface.co/papers/1705.07115
    """

    regression: Tensor

    def __init__(self, *, speed: float = 20.0):
        super().__init__()
        check_positive(self, speed=speed)
        self.speed = speed

    def build(self, tasks: Sequence[Task]) -> Self:
        """Make the log variances."""
        super().build(tasks)
        # The Trainer decides by the name what has no weight decay: what has `bias` in it.
        self.log_variance_bias = nn.Parameter(torch.zeros(len(tasks)))
        regression = torch.tensor([task.kind == "regression" for task in tasks])
        self.register_buffer("regression", regression, persistent=False)
        return self

    @property
    def log_variances(self) -> Tensor:
        """`(K,)`: $s$."""
        return START + self.speed * self.log_variance_bias

    def forward(self, losses: Tensor, present: Tensor, norms: Tensor | None = None) -> Tensor:
        """The weighted losses, whose gradient moves the log variances too."""
        with torch.no_grad():
            self.weights.copy_(uncertainty_weights(self.log_variances, self.regression))
        counted = present & losses.isfinite()
        # Masked before too: the slope of what is not finite times zero would not be zero.
        seen = torch.where(counted, losses.detach(), 1.0)
        noise = counted * uncertainty_loss(seen, self.log_variances, self.regression)
        # Zero in value: only its gradient counts. Divided, so that it is small beside that of the model, which is
        # clipped together with it.
        slope = (noise - noise.detach()) / self.speed**2
        return super().forward(losses, present) + slope.to(losses.dtype)

    def config(self) -> dict[str, Any]:
        """The hyper-parameters."""
        return {"speed": self.speed}
