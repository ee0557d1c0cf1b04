"""Classifying the queries of an episode together: what they have in common tells where the classes lie."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hf_transfer.functional.few_shot import centred, class_means, one_hot, squared_distances


__all__ = ["bd_cspn", "laplacian_shot", "rectified_means", "tim"]


def rectified_means(
    support: Tensor, labels: Tensor, query: Tensor, n_way: int, *, sharpness: float = 10.0
) -> tuple[Tensor, Tensor]:
    r"""
    The class means after the queries were moved onto the support and counted in, and the moved queries:

    $$ x' = x + \bar s - \bar q, \qquad
       p'_c = \sum_i w_{ic} x'_i, \qquad
       w_{ic} \propto [\hat y_i = c] \exp(\varepsilon \cos(x'_i, p_c)) $$

    over support rows with their labels and queries with the nearest mean by cosine as theirs; the weights of a class
    sum to one.

    Args:
        support (`Tensor`): `(E, S, D)` features of `E` episodes.
        labels (`Tensor`): `(E, S)`, classes of the support, 0 to `n_way - 1`.
        query (`Tensor`): `(E, Q, D)` features.
        n_way (`int`): number `n` of classes.
        sharpness (`float`, *optional*, defaults to 10): $\varepsilon$, dimensionless (the paper's).

    Shape:
        returns `(E, n, D)` and `(E, Q, D)`.
    """
    query = query + (support.mean(1, keepdim=True) - query.mean(1, keepdim=True))
    rows = torch.cat([support, query], 1)
    cosines = normalize(rows, dim=-1) @ normalize(class_means(support, labels, n_way), dim=-1).mT
    guesses = torch.cat([labels, cosines[:, support.shape[1] :].argmax(-1)], 1)
    members = one_hot(guesses, n_way, like=support)
    # finite in place of minus infinity, and once more zero: a class of no row has no weights, not NaN
    scores = (sharpness * cosines).masked_fill(members == 0, torch.finfo(rows.dtype).min)
    return (scores.softmax(1) * members).mT @ rows, query


def bd_cspn(
    support: Tensor, labels: Tensor, query: Tensor, n_way: int, *, sharpness: float = 10.0, temperature: float = 0.1
) -> Tensor:
    r"""
    BD-CSPN: cosine to class means that take the queries in, $\cos(x', p'_c) / \tau$ with the means of
    [`rectified_means`] of normalised features.

    Transductive: the prediction for a query depends on the other queries of its episode.

    Args:
        support (`Tensor`): `(E, S, D)` features of `E` episodes.
        labels (`Tensor`): `(E, S)`, classes of the support, 0 to `n_way - 1`.
        query (`Tensor`): `(E, Q, D)` features.
        n_way (`int`): number `n` of classes.
        sharpness (`float`, *optional*, defaults to 10): $\varepsilon$ of the weights, dimensionless (the paper's).
        temperature (`float`, *optional*, defaults to 0.1): $\tau$ of the logits, which changes no prediction.

    Shape:
        returns `(E, Q, n)`.

    Deviations from the paper:
        All queries of a class are counted in, where the paper takes the $Z$ surest ones and tunes $Z$.

    Relations:
        The shift supposes that support and queries have the same share of each class, as balanced episodes do.

    Example:
        >>> support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> query = torch.tensor([[[0.9, 0.2], [0.1, 0.8]]])
        >>> bd_cspn(support, torch.tensor([[0, 1]]), query, 2).argmax(-1)
        tensor([[0, 1]])

    Paper: Prototype Rectification for Few-Shot Learning, https://huggingface.co/papers/1911.10713
    """
    support, query = normalize(support, dim=-1), normalize(query, dim=-1)
    means, query = rectified_means(support, labels, query, n_way, sharpness=sharpness)
    return normalize(query, dim=-1) @ normalize(means, dim=-1).mT / temperature


def laplacian_shot(
    support: Tensor,
    labels: Tensor,
    query: Tensor,
    n_way: int,
    *,
    base_mean: Tensor | None = None,
    neighbours: int = 3,
    strength: float = 0.3,
    rectify: bool = True,
    iterations: int = 20,
) -> Tensor:
    r"""
    LaplacianShot: nearest class mean, with assignments $y_q$ that neighbours among the queries share. The minimum of

    $$ \sum_q \sum_c y_{qc} \lVert z_q - p_c \rVert^2
       + \frac{\lambda}{2} \sum_{q, r} w_{qr} \lVert y_q - y_r \rVert^2 $$

    with an entropy barrier is approached by $y_q \leftarrow \operatorname{softmax}_c(-\lVert z_q - p_c \rVert^2 +
    \lambda \sum_r w_{qr} y_{rc})$, where $w_{qr} = 1$ if $r$ is one of the nearest neighbours of $q$, from
    $y_q = \operatorname{softmax}_c(-\lVert z_q - p_c \rVert^2)$ on.

    Transductive: the prediction for a query depends on the other queries of its episode.

    Args:
        support (`Tensor`): `(E, S, D)` features of `E` episodes.
        labels (`Tensor`): `(E, S)`, classes of the support, 0 to `n_way - 1`.
        query (`Tensor`): `(E, Q, D)` features.
        n_way (`int`): number `n` of classes.
        base_mean (`Tensor`, *optional*): `(D,)`, as for `simpleshot`, whose features $z$ these are.
        neighbours (`int`, *optional*, defaults to 3): nearest neighbours of a query (3 in the paper's experiments).
        strength (`float`, *optional*, defaults to 0.3): $\lambda$, in squared distances of features of length one. The
            paper tunes it on validation classes, from 0.1 to 1.5: do so where you have some. Features that were not
            trained on such classes lie close together, and neighbours then outvote the means from 0.7 on.
        rectify (`bool`, *optional*, defaults to `True`): whether the queries are moved and the means take them in, as
            in `bd_cspn`, which the paper does.
        iterations (`int`, *optional*, defaults to 20): updates of the assignments.

    Shape:
        returns `(E, Q, n)`: the unnormalised logarithms of the last assignments.

    Degenerate:
        With fewer queries than neighbours each has all others.

    Example:
        >>> support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> query = torch.tensor([[[0.9, 0.2], [0.8, 0.2], [0.1, 0.8], [0.2, 0.9]]])
        >>> laplacian_shot(support, torch.tensor([[0, 1]]), query, 2, neighbours=1).argmax(-1)
        tensor([[0, 0, 1, 1]])

    Paper: Laplacian Regularized Few-Shot Learning, https://huggingface.co/papers/2006.15486
    """
    support, query = centred(support, labels, query, n_way, base_mean)
    if rectify:
        means, query = rectified_means(support, labels, query, n_way)
    else:
        means = class_means(support, labels, n_way)
    unary = -squared_distances(query, means)
    between = squared_distances(query, query)
    between.diagonal(dim1=1, dim2=2).fill_(float("inf"))
    count = min(neighbours, query.shape[1] - 1)
    nearest = between.topk(count, dim=-1, largest=False).indices
    affinity = strength * torch.zeros_like(between).scatter_(-1, nearest, 1.0)
    logits = unary
    for _ in range(iterations):
        logits = unary + affinity @ logits.softmax(-1)
    return logits


def tim(
    support: Tensor,
    labels: Tensor,
    query: Tensor,
    n_way: int,
    *,
    temperature: float = 15.0,
    support_weight: float = 0.1,
    entropy_weight: float = 0.1,
    iterations: int = 150,
) -> Tensor:
    r"""
    TIM (transductive information maximisation) by alternating directions, TIM-ADM: class vectors $w_c$ that minimise

    $$ -\frac{\lambda}{|S|} \sum_{i \in S} \log p_{i y_i}
       + \sum_c \bar p_c \log \bar p_c - \frac{\alpha}{|Q|} \sum_{i \in Q} \sum_c p_{ic} \log p_{ic}, \qquad
       p_{ic} \propto \exp\left(-\frac{\tau}{2} \lVert w_c - z_i \rVert^2\right) $$

    with $\bar p$ the mean of $p$ over the queries and $z = x / \lVert x \rVert$: sure predictions that are spread over
    the classes. From the class means on, it alternates, with $r_i = \lambda / (1 + \alpha)$ on the support (where $q$
    are the labels) and $r_i = |S| / |Q|$ on the queries,

    $$ q_{ic} \propto \frac{p_{ic}^{1 + \alpha}}{\sqrt{\sum_{i \in Q} p_{ic}^{1 + \alpha}}}, \qquad
       w_c \leftarrow \frac{\sum_i r_i (q_{ic} z_i + p_{ic} (w_c - z_i))}{\sum_i r_i q_{ic}} $$

    Transductive: the prediction for a query depends on the other queries of its episode.

    Args:
        support (`Tensor`): `(E, S, D)` features of `E` episodes.
        labels (`Tensor`): `(E, S)`, classes of the support, 0 to `n_way - 1`.
        query (`Tensor`): `(E, Q, D)` features.
        n_way (`int`): number `n` of classes.
        temperature (`float`, *optional*, defaults to 15): $\tau$, dimensionless (this and the next are the paper's).
        support_weight (`float`, *optional*, defaults to 0.1): $\lambda$ of the cross-entropy on the support.
        entropy_weight (`float`, *optional*, defaults to 0.1): $\alpha$ of the entropy of the predictions.
        iterations (`int`, *optional*, defaults to 150): rounds of both updates.

    Shape:
        returns `(E, Q, n)`.

    Relations:
        Queries are taken to be spread evenly over the classes, as in balanced episodes: where they are not, its gain
        is not to be had.

    Example:
        >>> support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> query = torch.tensor([[[0.9, 0.2], [0.1, 0.8]]])
        >>> tim(support, torch.tensor([[0, 1]]), query, 2).argmax(-1)
        tensor([[0, 1]])

    Paper: Transductive Information Maximization For Few-Shot Learning, https://huggingface.co/papers/2008.11297
    """
    rows = normalize(torch.cat([support, query], 1), dim=-1)
    shots, queries = support.shape[1], query.shape[1]
    targets = one_hot(labels, n_way, like=rows).mT
    # class vectors stay in the span of the rows: w = A z costs products of (S + Q) numbers in place of D
    gram = rows @ rows.mT
    vectors = targets / targets.sum(-1, keepdim=True).clamp(min=1)
    vectors = torch.cat([vectors, vectors.new_zeros(len(rows), n_way, queries)], -1)
    weights = rows.new_tensor([support_weight / (1 + entropy_weight)] * shots + [shots / queries] * queries)
    for _ in range(iterations):
        soft = _logits(gram, vectors, temperature).softmax(1)
        sharp = soft[..., shots:] ** (1 + entropy_weight)
        sharp = sharp / sharp.sum(-1, keepdim=True).clamp(min=1e-30).sqrt()
        sharp = sharp / sharp.sum(1, keepdim=True).clamp(min=1e-30)
        assigned = weights * torch.cat([targets, sharp], -1)
        soft = weights * soft
        moved = assigned - soft + soft.sum(-1, keepdim=True) * vectors
        vectors = moved / assigned.sum(-1, keepdim=True).clamp(min=1e-30)
    return _logits(gram, vectors, temperature)[..., shots:].mT


def _logits(gram: Tensor, vectors: Tensor, temperature: float) -> Tensor:
    """Minus half the squared distance of every row to every class vector, by the temperature: `(E, n, S + Q)`."""
    products = vectors @ gram
    lengths = (vectors * products).sum(-1, keepdim=True)
    return temperature * (products - (lengths + gram.diagonal(dim1=1, dim2=2).unsqueeze(1)) / 2)
