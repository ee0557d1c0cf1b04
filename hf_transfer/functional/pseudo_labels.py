"""Mathematics of self-training: which predictions are taken for labels, and what they are worth."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


__all__ = [
    "centroid_pseudo_labels",
    "class_thresholds",
    "cosine_to_centroids",
    "mean_prediction",
    "pseudo_label_cross_entropy",
    "pseudo_labels",
    "weighted_centroids",
]


def pseudo_labels(logits: Tensor, threshold: float | Tensor) -> tuple[Tensor, Tensor]:
    r"""
    The most probable class of each row, and whether its probability reaches a threshold; without a gradient.

    Args:
        logits (`Tensor`): `(N, C)`.
        threshold (`float` or `Tensor`): $\tau$ in [0, 1], for all classes or `(C,)` for each.

    Shape:
        - returns: `(N,)` int64 and `(N,)` bool.

    Example:
        >>> pseudo_labels(torch.tensor([[4.0, 0.0], [0.0, 0.1]]), 0.95)
        (tensor([0, 1]), tensor([ True, False]))
    """
    confidence, labels = logits.detach().softmax(-1).max(-1)
    limit = threshold[labels] if isinstance(threshold, Tensor) and threshold.dim() else threshold
    return labels, confidence >= limit


def class_thresholds(mean: Tensor, threshold: float) -> Tensor:
    r"""
    $\tau_c = \tau \, \bar p_c / \max_k \bar p_k$: a lower threshold for a class that is predicted more rarely.

    Args:
        mean (`Tensor`): $\bar p$ `(C,)`, the mean prediction, not negative.
        threshold (`float`): $\tau$, that of the most frequent class.

    Shape:
        - returns: `(C,)`.

    Example:
        >>> class_thresholds(torch.tensor([0.5, 0.25, 0.25]), 0.8).tolist()
        [0.800000011920929, 0.4000000059604645, 0.4000000059604645]
    """
    return threshold * mean / mean.max().clamp(min=torch.finfo(mean.dtype).tiny)


def mean_prediction(logits: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """
    The sum of the predicted probabilities over the rows that count, and their number; without a gradient.

    Two sums and not their quotient, so that those of several ranks can be added up.

    Args:
        logits (`Tensor`): `(N, C)`.
        counted (`Tensor`): `(N,)` bool.

    Shape:
        - returns: `(C,)` and a scalar.

    Example:
        >>> mean_prediction(torch.zeros(2, 2), torch.tensor([True, False]))
        (tensor([0.5000, 0.5000]), tensor(1.))
    """
    probabilities = torch.where(counted.unsqueeze(-1), logits.detach().softmax(-1), 0.0)
    return probabilities.sum(0), counted.sum().to(probabilities.dtype)


def pseudo_label_cross_entropy(logits: Tensor, labels: Tensor, kept: Tensor, counted: Tensor) -> Tensor:
    r"""
    $-\frac{1}{n} \sum_i k_i \log \operatorname{softmax}(z_i)_{y_i}$ over the $n$ rows that count, of which those with
    $k_i = 1$ have a pseudo-label. Divided by all that count: the fewer are sure, the less they say.

    Args:
        logits (`Tensor`): `(N, C)`.
        labels (`Tensor`): `(N,)` int64 in `[0, C)`, also where it is not kept.
        kept (`Tensor`): `(N,)` bool.
        counted (`Tensor`): `(N,)` bool.

    Shape:
        - returns: scalar, in nats per row that counts; an exact zero with a graph where none is kept.

    Example:
        >>> every = torch.tensor([True, True])
        >>> loss = pseudo_label_cross_entropy(torch.zeros(2, 2), torch.tensor([0, 1]), every & False, every)
        >>> loss.item()
        0.0
    """
    used = kept & counted
    # Zeros in place of what is not used: its gradient is then zero, whatever it holds.
    losses = F.cross_entropy(torch.where(used.unsqueeze(-1), logits, 0.0), labels, reduction="none")
    return torch.where(used, losses, 0.0).sum() / counted.sum().clamp(min=1)


def weighted_centroids(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""
    $\mu_c = \sum_i w_{ic} f_i / \sum_i w_{ic}$ for every class, and whether the class has any weight.

    Args:
        features (`Tensor`): $f$ `(N, D)`.
        weights (`Tensor`): $w$ `(N, C)`, not negative.

    Shape:
        - returns: `(C, D)`, zero where there is no weight, and `(C,)` bool.

    Example:
        >>> weighted_centroids(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        (tensor([[2.],
                [0.]]), tensor([ True, False]))
    """
    mass = weights.sum(0)
    present = mass > 0
    return (weights.T @ features) / torch.where(present, mass, 1.0).unsqueeze(-1), present


def cosine_to_centroids(features: Tensor, centroids: Tensor) -> Tensor:
    """
    The cosine of every row with every centroid, `(N, C)`; zero where one of both has no length.

    Example:
        >>> cosine_to_centroids(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        tensor([[1., 0.]])
    """
    return F.normalize(features, dim=-1) @ F.normalize(centroids, dim=-1).T


def centroid_pseudo_labels(features: Tensor, logits: Tensor, *, rounds: int = 1) -> Tensor:
    r"""
    The class of the nearest centroid by cosine, the pseudo-labels of SHOT.

    The first centroids are means weighted by the predicted probabilities, $\mu_c = \sum_i p_{ic} f_i / \sum_i p_{ic}$;
    rows take the class of the nearest; in each further round the centroids are the means of the rows of a class, and
    rows choose again. A class that lost all rows is no longer chosen.

    Args:
        features (`Tensor`): `(N, D)`.
        logits (`Tensor`): `(N, C)`.
        rounds (`int`, *optional*, defaults to 1): further rounds; one in the paper.

    Shape:
        - returns: `(N,)` int64.

    Example:
        >>> features = torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.0, 1.0]])
        >>> logits = torch.tensor([[2.0, 0.0], [-0.1, 0.0], [0.0, 2.0]])
        >>> centroid_pseudo_labels(features, logits).tolist()  # the second goes with its neighbour
        [0, 0, 1]
    """
    labels = _nearest(features, logits.softmax(-1))
    for _ in range(rounds):
        labels = _nearest(features, F.one_hot(labels, logits.shape[-1]).to(features.dtype))
    return labels


def _nearest(features: Tensor, weights: Tensor) -> Tensor:
    centroids, present = weighted_centroids(features, weights)
    return cosine_to_centroids(features, centroids).masked_fill(~present, float("-inf")).argmax(-1)
