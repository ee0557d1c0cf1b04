"""Random loss weighting (RLW)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.functional.task_weighting import softmax_weights
from hf_transfer.multitask.task import Task
from hf_transfer.objectives.multitask.weighting import TaskWeighting


__all__ = ["RandomWeighting"]


class RandomWeighting(TaskWeighting):
    r"""
    Random loss weighting (RLW): new weights $K \operatorname{softmax}(x)$, $x_k \sim N(0, 1)$, at every step.

    Args:
        seed (`int`, *optional*, defaults to 0):
            Seed of the weights, which are a function of it and of the number of the step: the same on all ranks and
            in all micro-batches of a step, and apart from all other random numbers.

    Shape:
        - as [`TaskWeighting`].

    Degenerate batches:
        An absent task adds an exact zero.

    Deviations from the paper:
        The sum of the weights is $K$ in place of 1, so that the same learning rate serves.

    Raises:
        ValueError: if `seed` is negative.

    Relations:
        The baseline of all weightings: one that is not better than random weights is not worth its trouble.

    Example:
        >>> from hf_transfer import Task
        >>> tasks = [Task("topic", num_labels=4), Task("stars", "regression")]
        >>> weighting = RandomWeighting().build(tasks)
        >>> weighting.begin_step()
        >>> round(weighting.weights.sum().item(), 4)
        2.0

    Paper: Lin et al., "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning", https://huggingface.co/papers/2111.10603
    """

    steps: Tensor

    def __init__(self, *, seed: int = 0):
        super().__init__()
        if seed < 0:
            raise ValueError(
                f"`seed={seed}` is negative; NumPy's seed sequences are not. Pass 0 or a positive number."
            )
        self.seed = seed
        self._step: int | None = None

    def build(self, tasks: Sequence[Task]) -> Self:
        """Make the counter of steps."""
        super().build(tasks)
        self.register_buffer("steps", torch.tensor(0))
        self._step = 0
        return self

    @torch.no_grad()
    def begin_step(self) -> None:
        """Draw weights."""
        # The number is kept here too, and read back from the device only where a checkpoint was loaded.
        self._step = (int(self.steps) if self._step is None else self._step) + 1
        self.steps.add_(1)
        # NumPy, because the generator of PyTorch on the CPU takes 32 bits of a seed only.
        drawn = np.random.default_rng([self.seed, self._step]).standard_normal(len(self.weights))
        self.weights.copy_(softmax_weights(torch.from_numpy(drawn)))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._step = None

    def config(self) -> dict[str, Any]:
        """The hyper-parameters."""
        return {"seed": self.seed}
