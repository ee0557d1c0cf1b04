"""The Frechet distance between the Gaussians of two sets of features."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


__all__ = ["frechet_distance"]


def frechet_distance(source: ArrayLike, target: ArrayLike) -> float:
    r"""
    Frechet distance (FID for features of Inception): how far apart two sets of features are, as Gaussians.

    $$ d^2 = \lVert \mu_S - \mu_T \rVert^2
       + \operatorname{tr}\bigl( \Sigma_S + \Sigma_T - 2 (\Sigma_S \Sigma_T)^{1/2} \bigr) $$

    with the means and the unbiased covariances of the rows: the squared 2-Wasserstein distance of the two Gaussians,
    squared as it is reported everywhere. No root of a `(D, D)` matrix is taken. With $A$ and $B$ the centred rows over
    $\sqrt{N - 1}$ and $\sqrt{M - 1}$, the trace is the least $\lVert A - Q B \rVert_F^2$ over the $Q$ with orthonormal
    rows or columns, and the best $Q$ comes from the singular vectors of $A B^\top$. That is right for fewer rows than
    dimensions too, never negative, and exact near 0, where the difference of traces has no digits left.

    Args:
        source (array): `(N, D)`, at least 2 rows.
        target (array): `(M, D)`, at least 2 rows; N and M may differ.

    Shape:
        - returns a number of at least 0, in squared units of the features: comparable for features of one model only.

    Degenerate cases:
        Constant features, and rows repeated, are nothing special. For two samples of one distribution it is above 0:
        by chance covariances differ, much so for few rows and many dimensions. Compare it for equal numbers of rows,
        or with what a random division of all rows gives, as [`domain_distance`] does.

    Raises:
        ValueError: if there are fewer than 2 rows, the widths differ, or a feature is not finite.

    Relations:
        [`mmd_test`] compares more than two moments and tells what is chance. [`proxy_a_distance`] ends at 2, where
        this goes on.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(frechet_distance(rows, rows + [3.0, 0.0, 4.0]), 6), round(frechet_distance(rows, rows), 6)
        (25.0, 0.0)
        >>> round(frechet_distance([[-1.0], [1.0]], [[-3.0], [3.0]]), 6)  # (sqrt(18) - sqrt(2))^2
        8.0

    Paper: Dowson and Landau, "The Frechet Distance between Multivariate Normal Distributions", Journal of Multivariate
    Analysis 1982, https://doi.org/10.1016/0047-259X(82)90077-X; for features Heusel et al., "GANs Trained by a Two
    Time-Scale Update Rule Converge to a Local Nash Equilibrium", NIPS 2017, https://huggingface.co/papers/1706.08500
    """
    first, second = _rows(source, "source"), _rows(target, "target")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"The source has features of width {first.shape[1]}, the target of width {second.shape[1]}: they are of "
            "two models or layers, and a distance between them means nothing. Extract both with one model and the "
            "same taps."
        )
    # means of differences from one row: what both have in common would cost digits
    origin = first[0].copy()
    first, second = first - origin, second - origin
    means = [rows.mean(0) for rows in (first, second)]
    roots = [_root(rows - mean) for rows, mean in zip((first, second), means, strict=True)]
    if len(roots[0]) < len(roots[1]):
        roots.reverse()  # so that Q has at least as many rows as columns, and Q^T Q is the identity
    left, _, right = np.linalg.svd(roots[0] @ roots[1].T, full_matrices=False)
    spread = ((roots[0] - (left @ right) @ roots[1]) ** 2).sum()
    return float(((means[0] - means[1]) ** 2).sum() + spread)


def _root(centred: np.ndarray) -> np.ndarray:
    """`(min(N, D), D)` with the covariance as its product with itself, $R^T R$."""
    return np.linalg.qr(centred, mode="r") / np.sqrt(len(centred) - 1)


def _rows(features: ArrayLike, name: str) -> np.ndarray:
    table = np.asarray(features, dtype=np.float64)
    if table.ndim != 2 or len(table) < 2 or not table.size:
        raise ValueError(
            f"The {name} has shape {table.shape}: a covariance takes at least 2 rows of features. Pass `(N, D)`."
        )
    if not np.isfinite(table).all():
        raise ValueError(
            f"{int((~np.isfinite(table)).any(1).sum())} rows of the {name} hold numbers that are not finite: every "
            "distance to them would be NaN. Extract them in float32, or look for the inputs that the model answers "
            "with NaN."
        )
    return table
