"""What the contract suite needs to know of each objective: how to make it, and batches with a known answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hf_transfer import L2SP, DomainAdversarial, Objective, TransferBatch


@dataclass(frozen=True)
class Case:
    """
    One objective in the contract suite.

    Args:
        make: a small instance.
        solved: changes the built objective or the batch so that the term's target is met.
        solved_value: the term's value then.
        reads_features: whether the term depends on the features (a term on weights does not).
        ascends: whether the gradient into the features climbs the term (an adversary) instead of descending it.
    """

    make: Callable[[], Objective]
    solved: Callable[[Objective, TransferBatch], TransferBatch]
    solved_value: float = 0.0
    reads_features: bool = True
    ascends: bool = False


def _indistinguishable(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # The same features in both domains and a discriminator that is undecided.
    torch.nn.init.zeros_(objective.discriminator[-1].weight)
    torch.nn.init.zeros_(objective.discriminator[-1].bias)
    return batch


CASES: dict[str, Case] = {
    "DomainAdversarial": Case(
        make=lambda: DomainAdversarial(hidden_size=8),
        solved=_indistinguishable,
        solved_value=0.6931471805599453,  # log 2: at chance
        ascends=True,
    ),
    "L2SP": Case(
        make=lambda: L2SP(weight=0.1),
        solved=lambda objective, batch: batch,  # the weights are where they started
        reads_features=False,
    ),
}
