"""`InnerRates`: the learned rates of Meta-SGD, which travel beside the model as an objective's parameters do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.objective import Objective


_ADDED = ("lora_", "scale", "shift")

__all__ = ["InnerRates", "usual_rate"]


def usual_rate(names: Sequence[str], *, head: str) -> float:
    """
    A rate of the inner loop for parameters whose curvature is not known: 0.1 for a head and what was added to a frozen
    model, which are small and begin near zero, 0.01 for weights of a network, as in the papers.

    Args:
        names (`Sequence[str]`): the adapted parameters.
        head (`str`): name of the head.
    """
    own = [name for name in names if not name.startswith(f"{head}.")]
    return 0.1 if all(any(word in name for word in _ADDED) for name in own) else 0.01


class InnerRates(Objective):
    """
    One learned rate of the inner loop for every number of every adapted parameter (Meta-SGD).

    It adds nothing to a loss: as an objective it is part of the model while that trains, so optimizer, checkpoints and
    resume know it, and the exported model does not. [`MetaTrainer`] makes it and reads it.

    Args:
        names (`Sequence[str]`):
            Names of the adapted parameters.
        start (`float`):
            Rate that all begin with; they are free to change their sign.

    Shape:
        - each rate has the shape of its parameter.
        - returns: an exact zero.

    Paper: Li et al., "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017, https://huggingface.co/papers/1707.09835
    """

    def __init__(self, *, names: Sequence[str], start: float):
        super().__init__()
        self.names, self.start = tuple(names), start
        self.rates = nn.ParameterList()

    def build(self, spec: ModelSpec) -> Self:
        """Make a rate for each parameter."""
        assert spec.model is not None
        for name in self.names:
            value = spec.model.get_parameter(name)
            self.rates.append(nn.Parameter(torch.full_like(value, self.start, device="cpu", requires_grad=True)))
        return self

    def by_name(self) -> dict[str, Tensor]:
        """The rates by the names of the parameters."""
        return dict(zip(self.names, self.rates, strict=True))

    def forward(self, batch: TransferBatch) -> Tensor:
        """Nothing."""
        return 0 * torch.where(batch.features == batch.features, batch.features, 0.0).sum()
