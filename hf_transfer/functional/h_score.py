"""How much of the variance of whitened features lies between the classes (H-score)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .class_statistics import centred, checked_classes, checked_features, left_coordinates


__all__ = ["h_score"]


def h_score(
    features: ArrayLike, labels: ArrayLike, *, shrinkage: Literal["ledoit-wolf"] | float | None = "ledoit-wolf"
) -> float:
    r"""
    H-score: variance of the class means, in units of the features' own covariance, regularised for few rows.

    With the covariance $\Sigma$ of the features $f$, that of their class means $\Sigma_b$, a shrinkage
    $\alpha \in [0, 1]$ and $\Sigma_\alpha = (1 - \alpha) \Sigma + \alpha \frac{\operatorname{tr} \Sigma}{D} I$,

    $$ H_\alpha = (1 - \alpha) \operatorname{tr}\bigl(\Sigma_\alpha^{-1} \Sigma_b\bigr), \qquad
       \Sigma_b = \operatorname{cov}(\mathbb{E}[f \mid y]) $$

    and $H = \operatorname{tr}(\Sigma^+ \Sigma_b)$ without shrinkage.

    Args:
        features (array): `(N, D)`, any unit.
        labels (array): classes `(N,)`, any integers.
        shrinkage (`"ledoit-wolf"`, `float` in [0, 1] or `None`, *optional*, defaults to `"ledoit-wolf"`):
            $\alpha$ (dimensionless): that of Ledoit and Wolf (2004), which is 1 where rows say nothing about
            directions; a number; or `None` for the score of Bao et al. with the pseudo-inverse.

    Returns:
        `float`, dimensionless, from 0 to $\min(C - 1, D)$; higher is better.

    Invariances:
        Shifts, a common scale, rotations, the order of the rows, and repeating all rows (with a given $\alpha$: that
        of Ledoit and Wolf falls with N). Without shrinkage also every invertible linear map; with it not even a scale
        of single columns.

    Degenerate cases:
        0 for one class, for one row and for features that do not vary. Without shrinkage, fewer rows than columns make
        it $C - 1$ for any features whose rows are independent: use the default there.

    Deviations from the paper:
        Both covariances are divided by N. The paper of the shrinkage computes it from the features; so does this, by
        scikit-learn's estimate.

    Raises:
        ValueError: if features or labels have the wrong shape, are not finite or no classes; if `shrinkage` is none of
            the above.
        ImportError: with `"ledoit-wolf"` without scikit-learn.

    Relations:
        Equal to $C - 1$ times the mean squared canonical correlation of features and classes where $\alpha = 0$.
        [`logme`] needs no shrinkage.

    Example:
        >>> features = [[0.0], [1.0], [1.0], [2.0]]  # half of the variance lies between the classes
        >>> round(h_score(features, [0, 0, 1, 1], shrinkage=None), 6), h_score(features, [5, 5, 5, 5])
        (0.5, 0.0)

    Paper: Bao et al., "An Information-Theoretic Approach to Transferability in Task Transfer Learning", ICIP 2019,
    https://huggingface.co/papers/2212.10082; shrinkage: Ibrahim et al., "Newer is not always better", ECML 2022,
    https://huggingface.co/papers/2110.06893
    """
    features = checked_features(features)
    rows, width = features.shape
    classes, counts = checked_classes(labels, rows)
    if isinstance(shrinkage, str) and shrinkage != "ledoit-wolf":
        raise ValueError(
            f"`shrinkage={shrinkage!r}` is not known: the covariance has to be regularised somehow. Give "
            "'ledoit-wolf', a number from 0 to 1, or None."
        )
    if isinstance(shrinkage, (int, float)) and not 0 <= shrinkage <= 1:
        raise ValueError(
            f"`shrinkage={shrinkage}` is outside [0, 1]: it is the share of a multiple of the identity in the "
            "covariance. Give a number such as 0.1, or 'ledoit-wolf'."
        )
    features = centred(features)
    if len(counts) == 1 or not features.any():
        return 0.0
    alpha = _ledoit_wolf(features) if isinstance(shrinkage, str) else float(shrinkage or 0.0)
    values, x = left_coordinates(features, classes, counts)
    # in the basis of the principal components both traces are sums: the covariance of the class means has the entries
    # s_i x_ic^2 / (N n_c) there, the covariance s_i / N
    between = values * (np.square(x) / counts).sum(axis=1)
    return float((1 - alpha) * (between / ((1 - alpha) * values + alpha * values.sum() / width)).sum())


def _ledoit_wolf(features: np.ndarray) -> float:
    try:
        from sklearn.covariance import ledoit_wolf_shrinkage
    except ImportError as error:
        raise ImportError(
            "`shrinkage='ledoit-wolf'` needs scikit-learn, which is not installed. Run `pip install "
            '"hf-transfer-learning[recipes]"`, or give a number.'
        ) from error
    # of features of one unit, as it squares their squares
    return float(ledoit_wolf_shrinkage(features / np.abs(features).max(), assume_centered=True))
