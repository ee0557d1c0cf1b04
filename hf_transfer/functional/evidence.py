"""The maximised evidence of a Bayesian linear model on frozen features (LogME)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .class_statistics import checked_classes, checked_features, checked_targets, left_coordinates


__all__ = ["logme"]

_FAR = np.log(1e8)  # bound of |log t|, with rows of mean squared length 1: there the evidence is flat or unbounded
_TOLERANCE = 1e-7  # of log t; the evidence is flat at its maximum, so its own error is about the square of it
_STEPS = 100
_PERFECT = 1e-12  # least mean square that is not explained, of targets of mean square 1


def logme(features: ArrayLike, labels: ArrayLike, *, regression: bool = False) -> float:
    r"""
    Logarithm of maximum evidence (LogME): how probable the labels are under a linear model of the features whose
    weights are integrated out, so that features which can fit anything gain nothing by it.

    For each one-hot column or real target $y$, with features $F$ of $N$ rows and $D$ columns,

    $$ \frac{1}{N} \max_{a, b} \log \mathcal{N}\bigl(y \mid 0,\; \tfrac{1}{b} I + \tfrac{1}{a} F F^\top\bigr) $$

    averaged over the columns. With the singular values $\sqrt{s_i}$ and left singular vectors $u_i$ of the rank $k$,
    $x_i = u_i^\top y$, $r_0 = \lVert y \rVert^2 - \sum x_i^2$ and $t = a / b$, the maximum is a fixed point of

    $$ \gamma = \sum_i \frac{s_i}{s_i + t}, \quad m_2 = \sum_i \frac{s_i x_i^2}{(s_i + t)^2}, \quad
       r = \sum_i \frac{t^2 x_i^2}{(s_i + t)^2} + r_0, \quad a = \frac{\gamma}{m_2}, \quad b = \frac{N - \gamma}{r} $$

    where the logarithm is
    $\frac{N}{2} \log \frac{b}{2 \pi} - \frac{1}{2} \sum_i \log(1 + s_i / t) - \frac{b}{2} r - \frac{a}{2} m_2$.

    Args:
        features (array): `(N, D)`, any unit. They are not centred, as in the paper.
        labels (array): classes `(N,)`, any integers; or real targets `(N,)` or `(N, K)` with `regression=True`.
        regression (`bool`, *optional*, defaults to `False`): whether labels are real targets.

    Returns:
        `float`, nats for each row and column; higher is better. A density: it may be positive, and a target in
        another unit shifts it by the logarithm of that unit.

    Invariances:
        Exact under a common scale of all features, rotations of them, columns of zeros beside them and the order of
        the rows. Not under a shift (no intercept) nor a scale of single columns. More rows repeated are more evidence.

    Degenerate cases:
        Fewer rows than columns, and any other rank, need nothing special. Without noise, as where fewer columns than
        rows fit a target perfectly, the evidence has no maximum: bounds on $t$ keep it finite, far above that of real
        features. With one class all targets are one, and the score says how well the features give a constant. With
        features of zeros noise alone explains the targets. One row is finite as well. None of these is a ranking.

    Deviations from the paper:
        The published loop evaluates $\frac{D}{2} \log a - \frac{1}{2} \sum_{i \le k} \log(a + b s_i)$ and so misses
        $-\frac{D - k}{2} \log a$ where $k < D$: for 50 rows of 384 features 23 in place of -0.8, growing with $D$.
        Here the density itself is evaluated. The published loop stops after 11 updates, on hard data before it has
        converged; here secants through its updates find the fixed point to 7 digits of $t$, for all columns at once.
        Features are divided by their root mean squared row length and real targets by their root mean square (which is
        put back): this changes no maximum and makes the start $a = b = 1$ free of units. $t$ is kept within $10^{-8}$
        and $10^8$ of it, in place of the $10^{-5}$ that the published code adds to $m_2$ and $r$, which costs nats.

    Raises:
        ValueError: if features or labels have the wrong shape, are not finite, or are no classes.

    Relations:
        [`h_score`] needs no prior and no iteration. For a classifier that is to be fine-tuned in whole, no score of
        frozen features replaces a short run.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(60, 5))
        >>> separable, noise = (rows[:, 0] > 0).astype(int), np.arange(60) % 2
        >>> logme(rows, separable) > logme(rows, noise)
        True

    Paper: You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML 2021,
    https://huggingface.co/papers/2102.11005; fixed point: https://huggingface.co/papers/2110.10545
    """
    features = checked_features(features)
    rows, shift = len(features), 0.0
    if regression:
        targets, counts = checked_targets(labels, rows), None
        unit = np.sqrt(np.square(targets).mean(axis=0))
        unit[unit == 0] = 1.0
        targets = targets / unit
        squares, shift = np.square(targets).sum(axis=0), float(np.log(unit).mean())
    else:
        targets, counts = checked_classes(labels, rows)
        squares = counts.astype(np.float64)
    values, x = left_coordinates(features, targets, counts)
    # divided here, not before: that would be a copy of all features
    values = values * rows / max(values.sum(), np.finfo(np.float64).tiny)
    return float(_maximised_evidence(values, np.square(x.T), squares, rows).mean() / rows) - shift


def _maximised_evidence(s: np.ndarray, x2: np.ndarray, squares: np.ndarray, rows: int) -> np.ndarray:
    """Log evidence `(C,)` at the fixed point; `s` `(k,)`, squared coordinates `(C, k)`, squared lengths `(C,)`."""
    left = np.maximum(squares - x2.sum(axis=1), 0.0)
    tiny = np.finfo(np.float64).tiny

    def sums(log_t: np.ndarray) -> tuple[np.ndarray, ...]:
        """gamma, N - gamma (without the cancellation), t m2 and r."""
        t = np.exp(log_t)[:, None]
        kept, lost = s / (s + t), t / (s + t)
        products = x2 * lost
        # s t / (s + t)^2 is kept * lost
        return (
            kept.sum(axis=1),
            rows - len(s) + lost.sum(axis=1),
            np.einsum("ck,ck->c", products, kept),
            np.einsum("ck,ck->c", products, lost) + left,
        )

    log_t = np.zeros(len(x2))  # a = b = 1
    before = step = np.zeros(0)
    for _ in range(_STEPS):
        gamma, free, weights, residual = sums(log_t)
        # log of a / b after the published update, less log t; its sign is that of the slope of the evidence, so steps
        # along it go uphill
        update = np.log((gamma + tiny) / (free + tiny)) + np.log(residual + tiny) - np.log(weights + tiny)
        if not len(step):
            step = update
        else:
            # the secant's step where the update shrinks along the way, else twice the update
            slope = np.divide(before - update, step, out=np.zeros_like(update), where=step != 0)
            step = np.divide(update, slope, out=2 * update, where=slope > 0)
        step = np.clip(log_t + np.clip(step, -3.0, 3.0), -_FAR, _FAR) - log_t
        log_t, before = log_t + step, update
        if np.abs(step).max() <= _TOLERANCE:
            break
    _, _, weights, residual = sums(log_t)
    # given t, b has a closed form
    quadratic = residual + weights
    b = rows / np.maximum(quadratic, _PERFECT * rows)
    determinant = np.log1p(s * np.exp(-log_t)[:, None]).sum(axis=1)
    return 0.5 * (rows * np.log(b / (2 * np.pi)) - b * quadratic - determinant)
