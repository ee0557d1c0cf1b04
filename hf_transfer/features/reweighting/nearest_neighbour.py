"""Weights by counting: how many target rows have a source row for their nearest."""

from __future__ import annotations

import numpy as np


__all__ = ["nearest_neighbour"]


def nearest_neighbour(source: np.ndarray, target: np.ndarray, *, k: int = 1) -> np.ndarray:
    r"""
    The share of the target rows that have a source row among their $k$ nearest, times $n_s / k$: mean 1 over the
    source. With $N_k(y)$ the nearest source rows of $y$

    $$ w_i = \frac{n_s}{k \, n_t} \sum_j [x_i \in N_k(y_j)] $$

    Args:
        source (`np.ndarray`): `(n_s, D)`, standardised.
        target (`np.ndarray`): `(n_t, D)`.
        k (`int`, *optional*, defaults to 1): neighbours (dimensionless), at most $n_s$. More are smoother, and leave
            fewer rows without any weight.

    Deviations from the paper:
        $k$ neighbours in place of one; no count is added to each.

    Raises:
        ValueError: if `k` is below 1.

    Example:
        >>> nearest_neighbour(np.array([[0.0], [1.0]]), np.array([[0.1], [0.2], [0.9], [-3.0]])).tolist()
        [1.5, 0.5]

    Paper: Loog, "Nearest Neighbor-Based Importance Weighting", MLSP 2012
    """
    from sklearn.neighbors import NearestNeighbors

    if k < 1:
        raise ValueError(
            f"`k={k}` neighbours: no source row would get any weight. Give 1 or more, such as 5 for smoother weights."
        )
    k = min(k, len(source))
    nearest = NearestNeighbors(n_neighbors=k).fit(source).kneighbors(target, return_distance=False)
    counts = np.bincount(nearest.reshape(-1), minlength=len(source))
    return counts * (len(source) / (k * len(target)))
