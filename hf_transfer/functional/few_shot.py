"""Classifying the queries of many episodes at once by the means of their supports."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


__all__ = ["class_means", "nearest_mean", "one_hot", "prototypes", "simpleshot", "squared_distances"]


def one_hot(labels: Tensor, n_way: int, *, like: Tensor) -> Tensor:
    """`(E, S)` class numbers as `(E, S, n)` zeros and ones of the type of `like`."""
    return (labels.unsqueeze(-1) == torch.arange(n_way, device=labels.device)).to(like.dtype)


def class_means(support: Tensor, labels: Tensor, n_way: int) -> Tensor:
    r"""
    Mean feature of each class of each episode, $p_c = \frac{1}{|S_c|} \sum_{i \in S_c} x_i$.

    Args:
        support (`Tensor`): `(E, S, D)`.
        labels (`Tensor`): `(E, S)`, from 0 to `n_way - 1`, in any order and of any number each.
        n_way (`int`): number `n` of classes.

    Shape:
        returns `(E, n, D)`. A class without support has the mean zero.

    Example:
        >>> class_means(torch.tensor([[[1.0], [3.0], [8.0]]]), torch.tensor([[0, 0, 1]]), 2).squeeze()
        tensor([2., 8.])
    """
    members = one_hot(labels, n_way, like=support).mT
    return members @ support / members.sum(-1, keepdim=True).clamp(min=1)


def squared_distances(query: Tensor, means: Tensor) -> Tensor:
    r"""
    $\lVert x - p_c \rVert^2$, `(E, Q, n)`, from the products of `query` `(E, Q, D)` and `means` `(E, n, D)`.

    Distances are taken from the mean of all means: what features have in common would otherwise cost digits.
    """
    centre = means.mean(1, keepdim=True)
    means = means - centre
    # (x - m).p without a copy of the queries: there are many more of them than of means
    products = query @ means.mT - centre @ means.mT
    own = query.square().sum(-1) - 2 * (query @ centre.mT).squeeze(-1) + centre.square().sum(-1)
    return (own.clamp(min=0).unsqueeze(-1) - 2 * products + means.square().sum(-1).unsqueeze(1)).clamp(min=0)


def nearest_mean(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    r"""
    Cosine of each query to the mean of the normalised support features of each class:
    $\cos(x, \sum_{i \in S_c} x_i / \lVert x_i \rVert)$.

    Args:
        support (`Tensor`): `(E, S, D)` features of `E` episodes.
        labels (`Tensor`): `(E, S)`, classes of the support, 0 to `n_way - 1`.
        query (`Tensor`): `(E, Q, D)` features.
        n_way (`int`): number `n` of classes.

    Shape:
        returns `(E, Q, n)`, in [-1, 1].

    Degenerate:
        A feature of length zero has the cosine 0 to everything.

    Relations:
        Strong pretrained features with this rule beat most meta-learners: begin with it.

    Example:
        >>> support, query = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[9.0, 1.0]]])
        >>> nearest_mean(support, torch.tensor([[0, 1]]), query, 2).argmax(-1)
        tensor([[0]])
    """
    means = normalize(class_means(normalize(support, dim=-1), labels, n_way), dim=-1)
    # the length of a query divides its products: normalising all of them first would be a copy
    return query @ means.mT / query.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def prototypes(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    r"""
    Prototypical networks: $-\lVert x - p_c \rVert^2$ to the mean $p_c$ of the support features of a class, which are
    taken as they are.

    Args:
        support (`Tensor`): `(E, S, D)` features of `E` episodes.
        labels (`Tensor`): `(E, S)`, classes of the support, 0 to `n_way - 1`.
        query (`Tensor`): `(E, Q, D)` features.
        n_way (`int`): number `n` of classes.

    Shape:
        returns `(E, Q, n)`.

    Relations:
        The rule that [`PrototypicalEpisodes`] trains for. On features that were not, `nearest_mean` or `simpleshot`
        are the safer choice, as lengths of features say little about classes.

    Example:
        >>> prototypes(torch.tensor([[[0.0], [4.0]]]), torch.tensor([[0, 1]]), torch.tensor([[[1.0]]]), 2)
        tensor([[[-1., -9.]]])

    Paper: Prototypical Networks for Few-shot Learning, https://huggingface.co/papers/1703.05175
    """
    return -squared_distances(query, class_means(support, labels, n_way))


def simpleshot(
    support: Tensor, labels: Tensor, query: Tensor, n_way: int, *, base_mean: Tensor | None = None
) -> Tensor:
    r"""
    SimpleShot (CL2N): features less a mean $m$, scaled to length 1, then $-\lVert z - p_c \rVert^2$ to the mean of
    each class, with $z = (x - m) / \lVert x - m \rVert$.

    Args:
        support (`Tensor`): `(E, S, D)` features of `E` episodes.
        labels (`Tensor`): `(E, S)`, classes of the support, 0 to `n_way - 1`.
        query (`Tensor`): `(E, Q, D)` features.
        n_way (`int`): number `n` of classes.
        base_mean (`Tensor`, *optional*): `(D,)`, mean feature of the base classes. By default the mean of each
            episode's support takes its place.

    Shape:
        returns `(E, Q, n)`.

    Deviations from the paper:
        Without base classes the mean is that of the support, of classes with equal weights.

    Example:
        >>> support, query = torch.tensor([[[9.0, 1.0], [9.0, 2.0]]]), torch.tensor([[[9.1, 1.8]]])
        >>> simpleshot(support, torch.tensor([[0, 1]]), query, 2).argmax(-1)
        tensor([[1]])

    Paper: SimpleShot, https://huggingface.co/papers/1911.04623
    """
    support, query = centred(support, labels, query, n_way, base_mean)
    return prototypes(support, labels, query, n_way)


def centred(
    support: Tensor, labels: Tensor, query: Tensor, n_way: int, base_mean: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Support and query less the base mean, or the mean of the support's class means, and scaled to length 1."""
    mean = class_means(support, labels, n_way).mean(1, keepdim=True) if base_mean is None else base_mean
    return normalize(support - mean, dim=-1), normalize(query - mean, dim=-1)
