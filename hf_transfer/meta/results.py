"""What adaptation to many episodes of unseen classes comes to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from hf_transfer.repeats import Summary, summarise


if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["MetaTestResults"]


@dataclass(frozen=True)
class MetaTestResults:
    """
    Accuracy of a model on the queries of episodes to whose support it adapted; made by [`meta_test`].

    Args:
        accuracies (`np.ndarray`): `(E,)`, of each episode, in [0, 1], in the order of the episodes.
        losses (`np.ndarray`): `(E,)`, mean cross-entropy of the queries, in nats.
        seconds (`float`): wall-clock time.

    Example:
        >>> results = MetaTestResults(np.array([0.5, 0.7, 0.6]), np.array([1.0, 0.8, 0.9]), 1.0)
        >>> print(results)
        accuracy 0.600 (95% interval 0.352 to 0.848) over 3 episodes
    """

    accuracies: np.ndarray
    losses: np.ndarray
    seconds: float

    @cached_property
    def summary(self) -> Summary:
        """Mean, spread and 95% Student interval of the accuracies."""
        return summarise(self.accuracies.tolist())

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return self.summary.mean

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of the mean over episodes; `None` for one episode."""
        return self.summary.interval

    def metrics(self) -> dict[str, float]:
        """The scores as `evaluate` reports them."""
        low, high = self.interval or (self.mean, self.mean)
        return {
            "accuracy": self.mean,
            "accuracy_low": low,
            "accuracy_high": high,
            "loss": float(self.losses.mean()),
            "episodes": len(self.accuracies),
        }

    def over_ranks(self, accelerator: Accelerator) -> MetaTestResults:
        """The results of all ranks, each of which scored its own episodes and has zeros for the others."""
        if accelerator.num_processes == 1:
            return self
        # float32, which every device and backend can add up
        mine = torch.from_numpy(np.stack([self.accuracies, self.losses])).float().to(accelerator.device)
        both = cast(torch.Tensor, accelerator.reduce(mine, reduction="sum")).double().cpu().numpy()
        return MetaTestResults(both[0], both[1], self.seconds)

    def __str__(self) -> str:
        interval = "" if self.interval is None else f" (95% interval {self.interval[0]:.3f} to {self.interval[1]:.3f})"
        return f"accuracy {self.mean:.3f}{interval} over {len(self.accuracies)} episodes"
