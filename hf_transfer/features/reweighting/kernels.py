"""Squared distances in blocks, and the Gaussian kernel with a bandwidth in units of their median."""

from __future__ import annotations

import numpy as np


_SAMPLE = 1000  # rows whose distances the median is taken of

__all__ = ["gaussian", "median_distance", "squared_distances"]


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """
    Squared Euclidean distances `(N, M)` of rows `(N, D)` and `(M, D)`.

    Example:
        >>> squared_distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]))
        array([[25.]])
    """
    squares = np.square(first).sum(1)[:, None] + np.square(second).sum(1) - 2 * first @ second.T
    return np.maximum(squares, 0)


def gaussian(squares: np.ndarray, bandwidth: float) -> np.ndarray:
    r"""
    $\exp(-d^2 / 2 \sigma^2)$ of squared distances.

    Example:
        >>> gaussian(np.array([0.0, 2.0]), 1.0).round(4).tolist()
        [1.0, 0.3679]
    """
    return np.exp(-squares / (2 * bandwidth**2))


def median_distance(rows: np.ndarray, seed: int = 0) -> float:
    """
    Median distance of two different rows, of at most 1,000 drawn at random; 1 where all are equal.

    Example:
        >>> median_distance(np.array([[0.0], [1.0], [3.0]]))
        2.0
    """
    if len(rows) > _SAMPLE:
        rows = rows[np.random.default_rng(seed).choice(len(rows), _SAMPLE, replace=False)]
    squares = squared_distances(rows, rows)[np.triu_indices(len(rows), 1)]
    median = float(np.sqrt(np.median(squares))) if len(squares) else 0.0
    # identical rows that make up more than half say nothing of how far the others are
    if median == 0 and len(squares) and squares.max() > 0:
        median = float(np.sqrt(np.mean(squares)))
    return median or 1.0
