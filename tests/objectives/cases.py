"""What the contract suite needs to know of each objective: how to make it, and batches with a known answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from hf_transfer import L2SP, DomainAdversarial, Objective, TransferBatch


@dataclass(frozen=True)
class Case:
    """
    One objective in the contract suite.

    Args:
        make: a small instance for a model.
        solved: changes the built objective or the batch of a forward so that the term's target is met.
        solved_value: the term's value then.
        reads_features: whether the term depends on features or logits (a term on weights or hidden states does not).
        ascends: whether the gradient into the features climbs the term (an adversary) instead of descending it.
        idle: kinds of models for which the term is exactly zero in the contract's batches.
        refused: kinds of models that are refused, with what the error says.
    """

    make: Callable[[nn.Module], Objective]
    solved: Callable[[Objective, TransferBatch], TransferBatch]
    solved_value: float = 0.0
    reads_features: bool = True
    ascends: bool = False
    idle: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def _indistinguishable(objective: Objective, batch: TransferBatch) -> TransferBatch:
    # The same features in both domains and a discriminator that is undecided.
    torch.nn.init.zeros_(objective.discriminator[-1].weight)
    torch.nn.init.zeros_(objective.discriminator[-1].bias)
    return replace(batch, features=batch.features[:1].expand_as(batch.features))


CASES: dict[str, Case] = {
    "DomainAdversarial": Case(
        make=lambda model: DomainAdversarial(hidden_size=8),
        solved=_indistinguishable,
        solved_value=0.6931471805599453,  # log 2: at chance
        ascends=True,
    ),
    "L2SP": Case(
        make=lambda model: L2SP(weight=0.1),
        solved=lambda objective, batch: batch,  # the weights are where they started
        reads_features=False,
    ),
}
