"""Smooth Tchebycheff scalarization (STCH)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hf_transfer.functional.task_weighting import tchebycheff_weights
from hf_transfer.objectives.multitask.step_weighting import StepWeighting
from hf_transfer.objectives.multitask.weighting import check_positive


__all__ = ["SmoothTchebycheff"]


class SmoothTchebycheff(StepWeighting):
    r"""
    Smooth Tchebycheff scalarization (STCH): the task that is worst off counts most, by a smooth maximum.

    The weights are the gradient of

    $$ \mu \log \sum_k \exp \left( \frac{\bar L_k}{\mu L_k(0)} \right) $$

    with respect to the losses, scaled to the sum $K$.

    Args:
        smoothing (`float`, *optional*, defaults to 0.2):
            $\mu$ (dimensionless): near 0 the worst task alone counts; large ones make the weights $1 / L_k(0)$. Ours.
        window (`int`, *optional*, defaults to 10):
            Optimizer steps that $\bar L_k$ looks back on; $L_k(0)$ is the mean over as many first ones. Ours.

    Shape:
        - as [`TaskWeighting`].

    Degenerate batches:
        An absent task adds an exact zero; one that was never present has the weight 1.

    Deviations from the paper:
        Losses are measured in units of their first ones, so that a task does not count more for its unit; the ideal
        point is 0. Running means in place of the losses of the micro-batch, so that ranks and micro-batches weigh
        alike. The preference of a task is its `weight`, outside of the maximum. The sum of the weights is $K$.

    Raises:
        ValueError: if `smoothing` is not positive or `window` is below 1.

    Relations:
        [`FastAdaptiveWeighting`] looks at how fast losses fall, this one at how far they have come.

    Example:
        >>> import torch
        >>> from hf_transfer import Task
        >>> tasks = [Task("topic", num_labels=4), Task("stars", "regression")]
        >>> weighting, present = SmoothTchebycheff(window=1).build(tasks), torch.tensor([True, True])
        >>> for losses in ([1.0, 1.0], [0.5, 1.0]):
        ...     _ = weighting(torch.tensor(losses), present)
        ...     weighting.begin_step()
        >>> [round(weight, 3) for weight in weighting.weights.tolist()]
        [0.152, 1.848]

    Paper: Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", ICML 2024, https://huggingface.co/papers/2402.19078
    """

    def __init__(self, *, smoothing: float = 0.2, window: int = 10):
        super().__init__(window=window)
        check_positive(self, smoothing=smoothing)
        self.smoothing = smoothing

    def update(self, losses: Tensor, before: Tensor, norms: Tensor, observed: Tensor) -> None:
        """Weigh by the running means."""
        self.weights.copy_(tchebycheff_weights(self.mean, self.reference, self.seen > 0, self.smoothing))

    def config(self) -> dict[str, Any]:
        """The hyper-parameters."""
        return {"smoothing": self.smoothing, "window": self.window}
