"""Changes of targets and weights in a classification loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor


__all__ = ["effective_number_weights", "focal_weights", "mixed_targets", "smoothed"]


def smoothed(targets: Tensor, smoothing: float) -> Tensor:
    r"""
    $(1 - \epsilon) q_c + \epsilon / C$.

    Args:
        targets (`Tensor`): `(..., C)`, distributions over the classes.
        smoothing (`float`): $\epsilon$ in [0, 1), dimensionless.

    Example:
        >>> smoothed(torch.tensor([1.0, 0.0]), 0.5).tolist()
        [0.75, 0.25]
    """
    return (1 - smoothing) * targets + smoothing / targets.shape[-1]


def focal_weights(log_probabilities: Tensor, gamma: float) -> Tensor:
    r"""
    $(1 - p_c)^\gamma$, from log-probabilities so that it is exact where $p$ is close to 1.

    Args:
        log_probabilities (`Tensor`): `(..., C)`, at most 0.
        gamma (`float`): dimensionless, 0 or more.

    Example:
        >>> focal_weights(torch.tensor([0.5, 1.0]).log(), 2.0).tolist()
        [0.25, 0.0]
    """
    # Kept off zero: there the slope of a power below 1 is infinite, and times a loss of zero it is NaN.
    complement = (-torch.expm1(log_probabilities)).clamp(min=torch.finfo(log_probabilities.dtype).tiny)
    return complement**gamma


def effective_number_weights(counts: Tensor, beta: float) -> Tensor:
    r"""
    The weight of each class, inverse to its effective number of rows $E_c = (1 - \beta^{n_c}) / (1 - \beta)$:

    $$ w_c = \frac{1 / E_c}{\frac{1}{|S|} \sum_{s \in S} 1 / E_s} $$

    with the mean taken over the classes $S$ that have rows. A class without rows has weight 1.

    Args:
        counts (`Tensor`): $n$, `(..., C)`, rows of each class.
        beta (`float`): in [0, 1), dimensionless. At 0 all classes weigh the same; towards 1 as 1 / n.

    Shape:
        - returns: `(..., C)`, dimensionless; float64 for float64 counts, else float32.

    Example:
        >>> effective_number_weights(torch.tensor([1, 2]), beta=0.5)
        tensor([1.2000, 0.8000])
    """
    counts = counts if counts.dtype == torch.float64 else counts.float()
    present = counts > 0
    log_beta = math.log(beta) if beta > 0 else -math.inf
    # The factor 1 - beta is the same for all and falls out.
    inverse = 1 / -torch.expm1(torch.where(present, counts, 1.0) * log_beta)
    mean = (inverse * present).sum(-1, keepdim=True) / present.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(present, inverse / mean, 1.0)


def mixed_targets(
    targets: Tensor, partner_targets: Tensor, labelled: Tensor, partner_labelled: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    r"""
    Targets of rows that are $\lambda$ of themselves and $1 - \lambda$ of a partner, and what the rows count, so that
    the loss is $\lambda$ times the one and $1 - \lambda$ times the other; a part without a label counts nothing.

    Args:
        targets (`Tensor`): $q$, `(N, C)`.
        partner_targets (`Tensor`): `(N, C)`.
        labelled (`Tensor`): `(N,)` bool; or float, what the label counts, 0 where there is none.
        partner_labelled (`Tensor`): `(N,)`, alike.
        share (`Tensor`): $\lambda$, `(N,)`, dimensionless.

    Shape:
        - returns: `(N, C)` distributions and `(N,)` in [0, 1], or up to the largest count.

    Example:
        >>> one, two, yes = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([True])
        >>> mixed_targets(one, two, yes, yes, torch.tensor([0.75]))
        (tensor([[0.7500, 0.2500]]), tensor([1.]))
        >>> mixed_targets(one, two, yes, ~yes, torch.tensor([0.75]))
        (tensor([[1., 0.]]), tensor([0.7500]))
    """
    mine, theirs = share * labelled, (1 - share) * partner_labelled
    counts = mine + theirs
    mixed = mine.unsqueeze(-1) * targets + theirs.unsqueeze(-1) * partner_targets
    known = counts > 0
    mixed = mixed / torch.where(known, counts, 1.0).unsqueeze(-1)
    return torch.where(known.unsqueeze(-1), mixed, targets), counts
