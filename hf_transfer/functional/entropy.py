"""Mathematics of the entropy of predictions: how sure they are, how varied, and which classes they confuse."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


__all__ = [
    "class_confusion",
    "diversity",
    "entropy",
    "information_maximization",
    "mean_entropy",
    "prediction_entropies",
]


def entropy(logits: Tensor) -> Tensor:
    r"""
    $H(p) = -\sum_c p_c \log p_c$ of $p = \operatorname{softmax}(z)$, in nats: 0 for one class, $\log C$ for all alike.

    From log-probabilities, never from the logarithm of a probability: exact, with finite gradients, for logits of any
    size and for classes that are ruled out by a logit of minus infinity.

    Args:
        logits (`Tensor`): `(..., C)`.

    Shape:
        - returns: `(...)`.

    Example:
        >>> entropy(torch.tensor([[1e4, 0.0, 0.0], [5.0, 5.0, float("-inf")]]))
        tensor([0.0000, 0.6931])
    """
    return _entropy(_log_probabilities(logits))


def mean_entropy(logits: Tensor, counted: Tensor | None = None) -> Tensor:
    """
    The mean of [`entropy`] over the rows that count; an exact zero with a graph where none does.

    Args:
        logits (`Tensor`): `(N, C)`.
        counted (`Tensor`, *optional*): `(N,)` bool; every row by default.

    Shape:
        - returns: scalar, in nats per row.

    Example:
        >>> round(mean_entropy(torch.tensor([[0.0, 0.0], [1e4, 0.0]])).item(), 4)  # log(2) / 2
        0.3466
    """
    logits, counted = _rows(logits, counted)
    return (entropy(logits) * counted).sum() / counted.sum().clamp(min=1)


def diversity(logits: Tensor, counted: Tensor | None = None) -> Tensor:
    r"""
    The entropy $H(\bar p)$ of the mean prediction $\bar p = \frac{1}{n} \sum_i p_i$ of the rows that count, in nats:
    $\log C$ where all classes are predicted alike, 0 where the model has collapsed to one; also 0 without a row.

    Args:
        logits (`Tensor`): `(N, C)`.
        counted (`Tensor`, *optional*): `(N,)` bool; every row by default.

    Shape:
        - returns: scalar.

    Example:
        >>> round(diversity(torch.tensor([[1e4, 0.0], [0.0, 1e4]])).item(), 4)  # log 2
        0.6931
        >>> diversity(torch.tensor([[1e4, 0.0], [1e4, 0.0]])).item()
        0.0
    """
    logits, counted = _rows(logits, counted)
    rows = counted.sum().clamp(min=1)
    log_probabilities = _only(_log_probabilities(logits), counted)
    return _entropy(torch.logsumexp(log_probabilities, 0) - rows.to(logits.dtype).log())


def information_maximization(
    logits: Tensor, counted: Tensor | None = None, *, diversity_weight: float = 1.0
) -> Tensor:
    r"""
    $\frac{1}{n} \sum_i H(p_i) + \gamma \, KL(\bar p \Vert u)$ with the uniform distribution $u$: the mean entropy
    less $\gamma$ times the [`diversity`], plus the constant $\gamma \log C$. Zero where every row is certain and every
    class as frequent as the others; an exact zero with a graph where no row counts.

    Args:
        logits (`Tensor`): `(N, C)`.
        counted (`Tensor`, *optional*): `(N,)` bool; every row by default.
        diversity_weight (`float`, *optional*, defaults to 1.0): $\gamma$, dimensionless.

    Shape:
        - returns: scalar, in nats per row.

    Example:
        >>> balanced, collapsed = torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.tensor([[1e4, 0.0], [1e4, 0.0]])
        >>> round(information_maximization(balanced).item(), 4), round(information_maximization(collapsed).item(), 4)
        (0.0, 0.6931)
    """
    logits, counted = _rows(logits, counted)
    divergence = (math.log(logits.shape[-1]) - diversity(logits, counted)) * counted.any()
    return mean_entropy(logits, counted) + diversity_weight * divergence


def class_confusion(logits: Tensor, counted: Tensor | None = None, *, temperature: float = 2.5) -> Tensor:
    r"""
    The share of confusion between classes: with $P = \operatorname{softmax}(Z / T)$, weights $w_i \propto 1 +
    e^{-H(P_i)}$ of mean 1 and without a gradient, and the correlation of classes $C_{jk} = \sum_i w_i P_{ij} P_{ik}$

    $$ L = \frac{1}{C} \sum_j \sum_{k \ne j} \frac{C_{jk}}{\sum_l C_{jl}} $$

    between 0 and 1. An exact zero with a graph where no row counts.

    As $\sum_l P_{il} = 1$, the denominator is $\sum_i w_i P_{ij}$, and what a row adds to class $j$ is
    $a_{ij} (1 - P_{ij})$ where $a_{\cdot j}$ is a softmax over the rows. In that form nothing is divided by the mass
    of a class, which may underflow: a class that no row predicts adds its limit, $1 / C$, with a finite gradient,
    instead of 0 / 0.

    Args:
        logits (`Tensor`): `(N, C)`.
        counted (`Tensor`, *optional*): `(N,)` bool; every row by default.
        temperature (`float`, *optional*, defaults to 2.5): $T$, dimensionless.

    Shape:
        - returns: scalar, dimensionless.

    Example:
        >>> class_confusion(torch.tensor([[1e4, 0.0], [0.0, 1e4]])).item()
        0.0
        >>> class_confusion(torch.zeros(5, 4)).item()  # every class is as much like any other: 3 / 4
        0.75
    """
    logits, counted = _rows(logits, counted)
    scaled = logits / temperature
    log_probabilities = _log_probabilities(scaled)
    # their mean cancels, as any factor does that all rows share
    log_weights = torch.log1p(torch.exp(-_entropy(log_probabilities.detach()))).unsqueeze(-1)
    shares = _only(log_probabilities + log_weights, counted).softmax(0)
    # 1 - p without cancellation where p is near 1
    confusion = (shares * -torch.expm1(log_probabilities)).sum(0)
    return confusion.mean() * counted.any()


def prediction_entropies(logits: Tensor, counted: Tensor | None = None) -> dict[str, Tensor]:
    """
    [`mean_entropy`] and [`diversity`] by name, without a gradient: what shows in the logs whether predictions are
    certain and varied (low, high), undecided (high, high) or collapsed to one class (low, low).

    Args:
        logits (`Tensor`): `(N, C)`.
        counted (`Tensor`, *optional*): `(N,)` bool; every row by default.

    Example:
        >>> {name: round(value.item(), 2) for name, value in prediction_entropies(torch.zeros(2, 2)).items()}
        {'entropy': 0.69, 'diversity': 0.69}
    """
    with torch.no_grad():
        return {"entropy": mean_entropy(logits, counted), "diversity": diversity(logits, counted)}


def _rows(logits: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """`logits` with zeros in the rows that do not count, whose gradient is then zero whatever they hold."""
    if counted is None:
        counted = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    return torch.where(counted.unsqueeze(-1), logits, 0.0), counted


def _log_probabilities(logits: Tensor) -> Tensor:
    # Half of the lowest number: still below, and then finite times zero is zero where a class has a logit of -inf.
    return F.log_softmax(logits, -1).clamp(min=torch.finfo(logits.dtype).min / 2)


def _entropy(log_probabilities: Tensor) -> Tensor:
    return (log_probabilities.exp() * -log_probabilities).sum(-1)


def _only(values: Tensor, counted: Tensor) -> Tensor:
    """`values` `(N, C)` with, in rows that do not count, what is nothing beside any other in an exponential."""
    return torch.where(counted.unsqueeze(-1), values, torch.finfo(values.dtype).min)
