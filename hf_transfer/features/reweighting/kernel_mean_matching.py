"""Kernel mean matching: weights under which the source has the target's mean in a kernel's feature space."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_transfer.features.reweighting.kernels import gaussian, median_distance, squared_distances


_BLOCK = 2048  # target rows whose kernel values are held at a time

__all__ = ["kernel_mean_matching", "solve_bounded"]


def kernel_mean_matching(
    source: np.ndarray,
    target: np.ndarray,
    *,
    bandwidth: float | None = None,
    bound: float = 10.0,
    ridge: float = 1.0,
    tolerance: float | None = None,
    chunk: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    r"""
    Weights $\beta$ of the source rows by kernel mean matching (KMM), the solution of

    $$ \min_\beta \tfrac{1}{2} \beta^T (K + \rho I) \beta - \kappa^T \beta \quad
       \text{with } 0 \le \beta_i \le B, \; |\textstyle\sum_i \beta_i - n_s| \le n_s \epsilon $$

    with $K_{ij} = k(x_i, x_j)$ over the source and $\kappa_i = \frac{n_s}{n_t} \sum_j k(x_i, y_j)$ over the target.

    A source of more than `chunk` rows is cut at random into parts of equal size, each matched to the whole target.
    Memory is $O(c^2)$ and time $O(n_s c)$ per step of the solver, some hundred steps, for chunks of $c$ rows: about
    a second for 2,000 rows.

    Args:
        source (`np.ndarray`): `(n_s, D)`, standardised.
        target (`np.ndarray`): `(n_t, D)`.
        bandwidth (`float`, *optional*): $\sigma$ of the Gaussian kernel; the median distance of two rows by default.
        bound (`float`, *optional*, defaults to 10.0): $B$ (dimensionless).
        ridge (`float`, *optional*, defaults to 1.0): $\rho$, above 0 (dimensionless; a row's kernel with itself is 1).
        tolerance (`float`, *optional*): $\epsilon$ (dimensionless); $(\sqrt{n_s} - 1) / \sqrt{n_s}$ by default.
        chunk (`int`, *optional*, defaults to 2000): largest number of source rows in one problem.
        seed (`int`, *optional*, defaults to 0): of the cut and of the rows for the median.

    Deviations from the paper:
        $\rho$ is 0 in the paper. The eigenvalues of a smooth kernel soon fall below rounding, and the solution then
        jumps between 0 and $B$ from row to row; with 1 the weights of known Gaussians come out in the right order. $B$
        is 10 in place of 1,000.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> source, target = np.array([[0.0], [3.0]]), np.array([[0.0], [0.0]])
        >>> kernel_mean_matching(source, target, bandwidth=1.0).round(2).tolist()
        [1.2, 0.21]

    Paper: Huang et al., "Correcting Sample Selection Bias by Unlabeled Data", NeurIPS 2006
    """
    if bound <= 0 or ridge <= 0 or (tolerance is not None and tolerance < 0) or chunk < 2 or (bandwidth or 1) <= 0:
        raise ValueError(
            f"bandwidth={bandwidth}, bound={bound}, ridge={ridge}, tolerance={tolerance} and chunk={chunk} were "
            "given: no weights would fit between the bounds, or many equally well. Give a bandwidth, a bound and a "
            "ridge above 0, a tolerance from 0 on and chunks of at least 2 rows."
        )
    sigma = bandwidth or median_distance(np.concatenate([source, target]), seed)
    parts = -(-len(source) // chunk)
    order = np.random.default_rng(seed).permutation(len(source)) if parts > 1 else np.arange(len(source))
    weights = np.empty(len(source))
    for rows in np.array_split(order, parts):
        part = source[rows]
        count = len(part)
        near = sum(
            gaussian(squared_distances(part, target[start : start + _BLOCK]), sigma).sum(1)
            for start in range(0, len(target), _BLOCK)
        )
        width = (np.sqrt(count) - 1) / np.sqrt(count) if tolerance is None else tolerance
        kernel = gaussian(squared_distances(part, part), sigma) + ridge * np.eye(count)
        limits = count * (1 - width), count * (1 + width)
        weights[rows] = solve_bounded(kernel, count / len(target) * np.asarray(near), bound, limits)
    return weights


def solve_bounded(kernel: np.ndarray, linear: np.ndarray, bound: float, limits: tuple[float, float]) -> np.ndarray:
    r"""
    $\arg\min_\beta \frac{1}{2} \beta^T K \beta - \kappa^T \beta$ with $0 \le \beta_i \le B$ and the sum within limits.

    The sum has one multiplier $\mu$, and falls with it: the problem without it, with $\kappa - \mu$, is solved by
    L-BFGS-B, and $\mu$ is found by bracketing where the sum meets the limit it would cross.

    Args:
        kernel (`np.ndarray`): $K$ `(N, N)`, positive definite.
        linear (`np.ndarray`): $\kappa$ `(N,)`.
        bound (`float`): $B$, above 0.
        limits (`tuple[float, float]`): of the sum.

    Raises:
        ValueError: if no weights between 0 and $B$ have a sum within the limits.

    Example:
        >>> solve_bounded(np.eye(2), np.array([1.0, 3.0]), 10.0, (0.0, 2.0)).round(4).tolist()
        [0.0, 2.0]
    """
    from scipy.optimize import brentq, minimize

    rows = len(linear)
    low, high = limits
    if high < 0 or low > bound * rows:
        raise ValueError(
            f"{rows} weights of at most {bound} cannot have a sum within {low:.3g} and {high:.3g}: there is no "
            "solution. Give a `bound` of at least 1."
        )
    solution = np.clip(linear / np.diag(kernel).mean() / max(rows, 1), 0, bound)

    def solve(multiplier: float) -> np.ndarray:
        nonlocal solution
        shifted = linear - multiplier

        def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
            product = kernel @ weights
            return float(weights @ (product / 2 - shifted)), product - shifted

        options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-13, "gtol": 1e-9 * max(1.0, float(abs(linear).max()))}
        found = minimize(objective, solution, jac=True, method="L-BFGS-B", bounds=[(0, bound)] * rows, options=options)
        solution = found.x
        return found.x

    total = solve(0.0).sum()
    if low <= total <= high:
        return solution
    limit, step = (high, 1.0) if total > high else (low, -1.0)
    end = step * max(1.0, float(abs(linear).max()))
    while step * (solve(end).sum() - limit) > 0:
        end *= 2
    multiplier: Any = brentq(
        lambda value: solve(value).sum() - limit, min(0.0, end), max(0.0, end), xtol=1e-10, rtol=1e-12
    )
    return solve(float(multiplier))
