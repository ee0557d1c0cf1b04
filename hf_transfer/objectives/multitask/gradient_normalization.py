"""Gradient normalisation (GradNorm)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hf_transfer.functional.task_weighting import gradient_norm_step
from hf_transfer.objectives.multitask.step_weighting import StepWeighting
from hf_transfer.objectives.multitask.weighting import check_positive


__all__ = ["GradientNormalization"]


class GradientNormalization(StepWeighting):
    r"""
    Gradient normalisation (GradNorm): weights under which all tasks pull on the features alike, laggards more.

    With $n_k$ the norm of the gradient of $L_k$, $\bar G$ the mean of the $w_k n_k$ and $r_k$ the loss $\bar L_k /
    L_k(0)$ divided by the mean of those, the weights descend

    $$ \frac{1}{\bar G} \sum_k \left| w_k n_k - \bar G \, r_k^\alpha \right| $$

    by one step in $\log w$ for each optimizer step, $\bar G$ and $r_k$ being constants, and are scaled to the sum $K$.

    Args:
        alpha (`float`, *optional*, defaults to 1.5):
            $\alpha$ (dimensionless), how strongly tasks that lag behind are pulled along; the paper's for NYUv2. At 0
            all gradients have the same norm.
        rate (`float`, *optional*, defaults to 0.025):
            Length of a step in $\log w$ (dimensionless). Ours.
        window (`int`, *optional*, defaults to 10):
            Optimizer steps that $\bar L_k$ looks back on; $L_k(0)$ is the mean over as many first ones. Ours.

    Shape:
        - as [`TaskWeighting`], with `norms`.

    Degenerate batches:
        An absent task adds an exact zero and keeps its weight in proportion to the others.

    Deviations from the paper:
        Gradients with respect to what the heads read, root mean square over the labelled rows, in place of those of
        the last shared layer: no backward through the backbone, and a task does not count more for having fewer rows
        in a micro-batch. Steps in $\log w$, so that no weight turns negative; divided by $\bar G$, so that the rate
        has no unit. The paper's $L_k(0)$ is the loss of the first step alone.

    Raises:
        ValueError: if `alpha` is negative, `rate` is not positive or `window` is below 1.

    Relations:
        [`UncertaintyWeighting`] needs no gradients. Gradients that point against each other are the matter of
        `surgery=`, which can be had beside it.

    Example:
        >>> import torch
        >>> from hf_transfer import Task
        >>> tasks = [Task("topic", num_labels=4), Task("stars", "regression")]
        >>> weighting, present = GradientNormalization(rate=0.1).build(tasks), torch.tensor([True, True])
        >>> _ = weighting(torch.ones(2), present, norms=torch.tensor([4.0, 1.0]))
        >>> weighting.begin_step()
        >>> [round(weight, 3) for weight in weighting.weights.tolist()]
        [0.9, 1.1]

    Paper: Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", https://huggingface.co/papers/1711.02257
    """

    reads_gradients = True

    def __init__(self, *, alpha: float = 1.5, rate: float = 0.025, window: int = 10):
        super().__init__(window=window)
        check_positive(self, rate=rate)
        if alpha < 0:
            raise ValueError(
                f"`alpha={alpha}` is negative: tasks that lag behind would be held back further. Give 0 for gradients "
                "of the same norm, or a positive number such as the default 1.5."
            )
        self.alpha = alpha
        self.rate = rate

    def update(self, losses: Tensor, before: Tensor, norms: Tensor, observed: Tensor) -> None:
        """Move the weights by one step."""
        progress = self.mean / self.reference.clamp(min=1e-12)
        log_weights = gradient_norm_step(
            self.weights.log(), norms, progress, observed, alpha=self.alpha, rate=self.rate
        )
        self.weights.copy_(log_weights.exp())

    def config(self) -> dict[str, Any]:
        """The hyper-parameters."""
        return {"alpha": self.alpha, "rate": self.rate, "window": self.window}
