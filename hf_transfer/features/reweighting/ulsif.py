"""uLSIF: a density ratio as a sum of kernels, by least squares in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_transfer.features.reweighting.kernels import gaussian, median_distance, squared_distances
from hf_transfer.features.reweighting.kliep import SCALES, centres_of


PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties that are tried."""

__all__ = ["PENALTIES", "coefficients", "left_out_score", "ulsif"]


def ulsif(
    source: np.ndarray,
    target: np.ndarray,
    *,
    scales: Sequence[float] = SCALES,
    penalties: Sequence[float] = PENALTIES,
    centres: int = 100,
    seed: int = 0,
) -> np.ndarray:
    r"""
    The ratio $w(x) = \sum_l \alpha_l k(x, c_l)$ at the source rows by unconstrained least squares (uLSIF),

    $$ \alpha = \max\left(0, (H + \lambda I)^{-1} h\right), \quad
       H = \frac{1}{n_s} \sum_i \phi(x_i) \phi(x_i)^T, \quad h = \frac{1}{n_t} \sum_j \phi(y_j) $$

    with Gaussian kernels $\phi$ around target rows. Bandwidth and $\lambda$ have the smallest leave-one-out error, in
    closed form. Time is $O((n_s + n_t) L^2)$ for each pair of the two, with $L$ kernels.

    Args:
        source (`np.ndarray`): `(n_s, D)`, standardised.
        target (`np.ndarray`): `(n_t, D)`.
        scales (`Sequence[float]`, *optional*, defaults to 0.1 to 2): bandwidths to choose from, in units of the
            median distance of two rows.
        penalties (`Sequence[float]`, *optional*, defaults to 1e-3 to 10): $\lambda$ to choose from (dimensionless).
        centres (`int`, *optional*, defaults to 100): number of kernels, drawn from the target.
        seed (`int`, *optional*, defaults to 0): of the centres and of the pairs that are left out.

    Degenerate batches:
        A domain of one row leaves nothing to choose by: the middle bandwidth and penalty are taken.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> ratio = ulsif(generator.normal(0, 1, (200, 1)), generator.normal(0, 1, (200, 1)))
        >>> bool(abs(ratio - 1).max() < 0.5)
        True

    Paper: Kanamori et al., "A Least-squares Approach to Direct Importance Estimation", JMLR 2009
    """
    if not len(scales) or min(scales) <= 0 or not len(penalties) or min(penalties) <= 0 or centres < 1:
        raise ValueError(
            f"scales={tuple(scales)}, penalties={tuple(penalties)} and centres={centres} were given: there is no "
            "kernel to fit, or no unique solution. Give positive scales and penalties and at least 1 centre."
        )
    chosen = centres_of(target, centres, seed)
    unit = median_distance(np.concatenate([source, target]), seed)
    source_squares, target_squares = squared_distances(source, chosen), squared_distances(target, chosen)
    pairs = min(len(source), len(target))
    generator = np.random.default_rng(seed)
    left_source = generator.choice(len(source), pairs, replace=False)
    left_target = generator.choice(len(target), pairs, replace=False)
    best = sorted(scales)[len(scales) // 2], sorted(penalties)[len(penalties) // 2]
    lowest = np.inf
    for scale in sorted(scales) if pairs > 1 else []:
        at_source, at_target = gaussian(source_squares, scale * unit), gaussian(target_squares, scale * unit)
        for penalty in sorted(penalties):
            score = left_out_score(at_source, at_target, penalty, left_source, left_target)
            if score < lowest:
                best, lowest = (scale, penalty), score
    at_source, at_target = gaussian(source_squares, best[0] * unit), gaussian(target_squares, best[0] * unit)
    return at_source @ coefficients(at_source, at_target, best[1])


def coefficients(at_source: np.ndarray, at_target: np.ndarray, penalty: float) -> np.ndarray:
    r"""
    $\max(0, (H + \lambda I)^{-1} h)$ `(L,)`.

    Args:
        at_source (`np.ndarray`): $\phi$ `(n_s, L)`.
        at_target (`np.ndarray`): $\phi$ `(n_t, L)`.
        penalty (`float`): $\lambda$, above 0.

    Example:
        >>> coefficients(np.array([[1.0]]), np.array([[0.5]]), 1.0).tolist()
        [0.25]
    """
    products = at_source.T @ at_source / len(at_source)
    solved = np.linalg.solve(products + penalty * np.eye(len(products)), at_target.mean(0))
    return np.maximum(solved, 0)


def left_out_score(
    at_source: np.ndarray, at_target: np.ndarray, penalty: float, left_source: np.ndarray, left_target: np.ndarray
) -> float:
    r"""
    Mean of $\frac{1}{2} w(x)^2 - w(y)$ over pairs of a source row $x$ and a target row $y$, each by the coefficients
    that are fitted without both rows. One inverse serves all pairs, by the Sherman-Morrison formula.

    Args:
        at_source (`np.ndarray`): $\phi$ `(n_s, L)`, with two rows or more.
        at_target (`np.ndarray`): $\phi$ `(n_t, L)`, with two rows or more.
        penalty (`float`): $\lambda$, above 0.
        left_source (`np.ndarray`): `(P,)` numbers of the source rows left out.
        left_target (`np.ndarray`): `(P,)` numbers of the target rows left out with them.

    Example:
        >>> one = np.array([0, 1])
        >>> round(left_out_score(np.ones((2, 1)), np.ones((2, 1)), 1.0, one, one), 4)  # w is 1 / 2
        -0.375
    """
    rows, targets = len(at_source), len(at_target)
    # without one row H is (n H - x x^T) / (n - 1)
    products = at_source.T @ at_source / (rows - 1) + penalty * np.eye(at_source.shape[1])
    source, target = at_source[left_source], at_target[left_target]
    means = (at_target.sum(0) - target) / (targets - 1)
    solved_source = np.linalg.solve(products, source.T).T
    solved_means = np.linalg.solve(products, means.T).T
    share = (solved_means * source).sum(1) / (rows - 1 - (solved_source * source).sum(1))
    weights = np.maximum(solved_means + share[:, None] * solved_source, 0)
    at_left_source, at_left_target = (weights * source).sum(1), (weights * target).sum(1)
    return float((np.square(at_left_source) / 2 - at_left_target).mean())
