"""KLIEP: a density ratio as a sum of kernels, by the likelihood of the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_transfer.features.reweighting.kernels import gaussian, median_distance, squared_distances


SCALES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
"""Bandwidths that are tried, in units of the median distance."""

_ITERATIONS = 200

__all__ = ["SCALES", "centres_of", "kliep", "mixture_weights"]


def kliep(
    source: np.ndarray,
    target: np.ndarray,
    *,
    scales: Sequence[float] = SCALES,
    centres: int = 100,
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    r"""
    The ratio $w(x) = \sum_l \alpha_l k(x, c_l)$ at the source rows by KLIEP, the solution of

    $$ \max_{\alpha \ge 0} \sum_j \log w(y_j) \quad \text{with } \frac{1}{n_s} \sum_i w(x_i) = 1 $$

    with Gaussian kernels around target rows $c_l$. Their bandwidth has the largest likelihood of held-out target rows.

    Args:
        source (`np.ndarray`): `(n_s, D)`, standardised.
        target (`np.ndarray`): `(n_t, D)`.
        scales (`Sequence[float]`, *optional*, defaults to 0.1 to 2): bandwidths to choose from, in units of the
            median distance of two rows.
        centres (`int`, *optional*, defaults to 100): number of kernels, drawn from the target.
        folds (`int`, *optional*, defaults to 5): of the target rows.
        seed (`int`, *optional*, defaults to 0): of centres and folds.

    Deviations from the paper:
        Solved by L-BFGS-B in place of projected gradient steps. Kernels that reach no source row are left out: the
        likelihood has no maximum with them. A held-out row that no kernel reaches has the smallest positive number
        for its ratio.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> ratio = kliep(generator.normal(0, 1, (200, 1)), generator.normal(0, 1, (100, 1)))
        >>> round(float(ratio.mean()), 6)
        1.0

    Paper: Sugiyama et al., "Direct Importance Estimation with Model Selection and Its Application to Covariate Shift
    Adaptation", NeurIPS 2007
    """
    if not len(scales) or min(scales) <= 0 or centres < 1 or folds < 2:
        raise ValueError(
            f"scales={tuple(scales)}, centres={centres} and folds={folds} were given: there is no kernel to fit, or "
            "nothing held out to choose by. Give positive scales, at least 1 centre and 2 folds."
        )
    chosen = centres_of(target, centres, seed)
    unit = median_distance(np.concatenate([source, target]), seed)
    source_squares, target_squares = squared_distances(source, chosen), squared_distances(target, chosen)
    fold = np.random.default_rng(seed).permutation(np.arange(len(target)) % folds)
    best, best_score = float(np.median(scales)), -np.inf
    for scale in sorted(scales) if len(scales) > 1 and len(target) > 1 else []:
        at_source = gaussian(source_squares, scale * unit)
        at_target = gaussian(target_squares, scale * unit)
        score = 0.0
        for number in np.unique(fold):
            weights = mixture_weights(at_source, at_target[fold != number])
            held = np.maximum(at_target[fold == number] @ weights, np.finfo(np.float64).tiny)
            score += float(np.log(held).sum())
        if score >= best_score:  # of equals the widest, which is the smoothest
            best, best_score = scale, score
    if len(scales) == 1:
        best = scales[0]
    at_source = gaussian(source_squares, best * unit)
    return at_source @ mixture_weights(at_source, gaussian(target_squares, best * unit))


def centres_of(target: np.ndarray, centres: int, seed: int) -> np.ndarray:
    """At most `centres` of the target rows, drawn without replacement."""
    if len(target) <= centres:
        return target
    return target[np.random.default_rng(seed).choice(len(target), centres, replace=False)]


def mixture_weights(at_source: np.ndarray, at_target: np.ndarray) -> np.ndarray:
    r"""
    $\alpha$ `(L,)` that maximises the mean of $\log \sum_l \alpha_l \phi_l$ over the target rows, with a mean of 1
    over the source rows; zero for kernels that reach no source row, and for all where none does.

    With $\beta_l = \alpha_l \bar\phi_l$, $\bar\phi_l$ the mean over the source, the constraint is
    $\sum_l \beta_l = 1$. Its multiplier is 1, as a larger $\beta$ by a factor $t$ adds just $\log t$: what is solved
    is the problem without it, less $\sum_l \beta_l$.

    Args:
        at_source (`np.ndarray`): $\phi$ `(n_s, L)`, 0 or more.
        at_target (`np.ndarray`): $\phi$ `(n_t, L)`.

    Example:
        >>> mixture_weights(np.array([[1.0, 0.5]]), np.array([[1.0, 0.0], [1.0, 0.0]])).round(3).tolist()
        [1.0, 0.0]
    """
    from scipy.optimize import minimize

    means = at_source.mean(0)
    used = means > 1e-12
    weights = np.zeros(len(means))
    if not used.any():
        return weights
    # each kernel over its mean is a density ratio, and what is sought is their mixture
    parts = at_target[:, used] / means[used]
    reached = parts.sum(1) > 0
    parts = parts[reached]
    start = np.full(parts.shape[1], 1 / parts.shape[1])
    if not len(parts):
        weights[used] = start / means[used]
        return weights

    def loss(shares: np.ndarray) -> tuple[float, np.ndarray]:
        ratio = np.maximum(parts @ shares, np.finfo(np.float64).tiny)
        return float(shares.sum() - np.log(ratio).mean()), 1 - (1 / ratio) @ parts / len(parts)

    options = {"maxiter": _ITERATIONS, "ftol": 1e-10}
    shares = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start), options=options).x
    weights[used] = shares / shares.sum() / means[used]
    return weights
