"""Mathematics of contrasting rows of the same class with rows of other classes."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_transfer.functional.task_loss import UNLABELLED


__all__ = ["contrast", "supervised_contrastive", "unit"]


def unit(vectors: Tensor) -> Tensor:
    """
    The vectors at length 1. A vector of zeros has no direction: it stays as it is and gets no gradient.

    Args:
        vectors (`Tensor`): `(..., D)`.

    Example:
        >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    # Divided by a tiny constant instead, as `F.normalize` does, a vector of zeros would get an enormous gradient.
    return torch.where(length > 1e-12, vectors / length.clamp(min=1e-12), 0 * vectors.detach())


def contrast(similarities: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
    r"""
    What each anchor pays for telling its positives from all candidates:

    $$ L_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log \frac{\exp s_{ip}}{\sum_{a \in A(i)} \exp s_{ia}} $$

    Args:
        similarities (`Tensor`): $s$, `(N, M)`, already divided by the temperature.
        positives (`Tensor`): `(N, M)` bool, $P$; those that are no candidates are left out.
        candidates (`Tensor`): `(N, M)` bool, $A$.

    Shape:
        - returns: `(N,)`, in nats; zero with a graph for anchors without positives.

    Example:
        >>> yes = torch.ones(1, 4, dtype=torch.bool)
        >>> round(contrast(torch.zeros(1, 4), torch.tensor([[True, False, False, False]]), yes).item(), 4)  # log 4
        1.3863
    """
    positives = positives & candidates
    # The lowest finite number, not minus infinity: an anchor without any candidate must not become NaN.
    masked = torch.where(candidates, similarities, torch.finfo(similarities.dtype).min)
    losses = torch.where(positives, masked.logsumexp(-1, keepdim=True) - masked, 0.0)
    return losses.sum(-1) / positives.sum(-1).clamp(min=1)


def supervised_contrastive(features: Tensor, labels: Tensor, temperature: float = 0.3) -> Tensor:
    r"""
    The supervised contrastive loss, with the sum over the positives outside of the logarithm, averaged over the
    labelled rows: [`contrast`] with cosine similarities divided by the temperature, where the positives of a row are
    the other rows of its class and the candidates all other labelled rows.

    Args:
        features (`Tensor`): `(N, D)`, of any length.
        labels (`Tensor`): `(N,)` integer; rows of -100 are left out.
        temperature (`float`, *optional*, defaults to 0.3): dimensionless.

    Shape:
        - returns: scalar, in nats per labelled row.

    Example:
        >>> supervised_contrastive(torch.eye(2), torch.tensor([0, 1])).item()  # no row has a positive
        0.0
    """
    rows = unit(features)
    labelled = labels != UNLABELLED
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    candidates = labelled.unsqueeze(1) & labelled & others
    losses = contrast(rows @ rows.mT / temperature, labels.unsqueeze(1) == labels, candidates)
    return losses.sum() / labelled.sum().clamp(min=1)
