"""Mathematics of prototypical episodes: class means of a support set, and what they say of queries."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_transfer.functional.contrastive import unit
from hf_transfer.functional.task_loss import UNLABELLED


Distance = Literal["squared_euclidean", "cosine"]

__all__ = ["Distance", "episode_loss", "prototype_logits", "split_episodes", "whole_episodes"]


def split_episodes(rows: Tensor, *, n_way: int, k_shot: int, queries: int) -> tuple[Tensor, Tensor]:
    """
    Rows of consecutive episodes as support and query sets, by their place alone.

    An episode is `n_way * k_shot` rows of support and behind them `n_way * queries` rows to classify, both class by
    class in the same order. Rows behind the last whole episode are left out.

    Args:
        rows (`Tensor`): `(B, ...)`, features or labels.
        n_way, k_shot, queries (`int`): classes, and rows of each class in the support and the query set.

    Shape:
        - returns `(E, n_way, k_shot, ...)` and `(E, n_way, queries, ...)` for `E` whole episodes.

    Example:
        >>> support, query = split_episodes(torch.arange(5), n_way=2, k_shot=1, queries=1)
        >>> support.flatten().tolist(), query.flatten().tolist()
        ([0, 1], [2, 3])
    """
    size = n_way * (k_shot + queries)
    episodes = len(rows) // size
    rest = rows.shape[1:]
    rows = rows[: episodes * size].reshape(episodes, size, *rest)
    support, query = rows[:, : n_way * k_shot], rows[:, n_way * k_shot :]
    return support.reshape(episodes, n_way, k_shot, *rest), query.reshape(episodes, n_way, queries, *rest)


def whole_episodes(support: Tensor, query: Tensor) -> Tensor:
    """
    Which episodes are what they should be: every row labelled, one class a group, different classes, and the queries
    in the order of the support.

    Args:
        support (`Tensor`): labels `(E, n, k)`.
        query (`Tensor`): labels `(E, n, q)`.

    Shape:
        - returns `(E,)` bool.

    Example:
        >>> labels = torch.tensor([[[7], [3]], [[7], [7]]])
        >>> whole_episodes(labels, labels).tolist()
        [True, False]
    """
    classes = support[..., :1]
    alike = (support == classes).all(-1) & (query == classes).all(-1) & (classes[..., 0] != UNLABELLED)
    return alike.all(-1) & (classes[..., 0].sort(-1).values.diff(dim=-1) != 0).all(-1)


def prototype_logits(
    prototypes: Tensor, queries: Tensor, *, distance: Distance = "squared_euclidean", temperature: float = 1.0
) -> Tensor:
    r"""
    What prototypes $p_c$ say of queries $q$: $-\lVert q - p_c \rVert^2 / \tau$ up to a number that all classes share,
    or $\cos(q, p_c) / \tau$.

    Args:
        prototypes (`Tensor`): `(E, n, D)`.
        queries (`Tensor`): `(E, Q, D)`.
        distance (`str`, *optional*): `"squared_euclidean"` or `"cosine"`.
        temperature (`float`, *optional*, defaults to 1.0): $\tau$, in squared units of the features, or dimensionless.

    Shape:
        - returns `(E, Q, n)`.

    Degenerate:
        A vector of zeros has no direction: its cosine is 0 and gets no gradient.

    Example:
        >>> prototypes = torch.tensor([[[0.0], [2.0]]])
        >>> prototype_logits(prototypes, torch.tensor([[[0.5]]])).softmax(-1).round(decimals=3)
        tensor([[[0.8810, 0.1190]]])
    """
    if distance == "cosine":
        return unit(queries) @ unit(prototypes).mT / temperature
    # Seen from their centre: distances do not change, and rounding is by the spread of the classes, not their place.
    centre = prototypes.mean(-2, keepdim=True)
    prototypes, queries = prototypes - centre, queries - centre
    return (2 * queries @ prototypes.mT - prototypes.square().sum(-1).unsqueeze(-2)) / temperature


def episode_loss(logits: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    r"""
    Mean cross-entropy of the queries of the episodes that count, and the share of them that is classified rightly.

    Args:
        logits (`Tensor`): `(E, n * q, n)`, the queries class by class.
        counted (`Tensor`): `(E,)` bool.

    Shape:
        - returns two scalars, nats per query and a share; exact zeros, the first with a graph, if no episode counts.

    Example:
        >>> loss, accuracy = episode_loss(torch.zeros(1, 4, 2), torch.tensor([True]))
        >>> round(loss.item(), 4), accuracy.item()  # log 2
        (0.6931, 0.5)
    """
    episodes, rows, ways = logits.shape
    targets = torch.arange(ways, device=logits.device).repeat_interleave(rows // ways).expand(episodes, rows)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").reshape(episodes, rows)
    right = (logits.argmax(-1) == targets).to(logits.dtype)
    number = (counted.sum() * rows).clamp(min=1)
    mask = counted.unsqueeze(-1)
    return torch.where(mask, losses, 0 * losses).sum() / number, torch.where(mask, right, 0 * right).sum() / number
