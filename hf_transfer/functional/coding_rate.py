"""How many bits the classes save when features are coded (TransRate)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .class_statistics import centred, checked_classes, checked_features


__all__ = ["coding_rate", "transrate"]


def coding_rate(features: ArrayLike, *, epsilon: float = 1e-4) -> float:
    r"""
    Rate distortion of rows of features, $\frac{1}{2} \log \det\bigl(I + \frac{1}{N \epsilon} Z^\top Z\bigr)$, in nats.

    Args:
        features (array): $Z$, `(N, D)`, as they are: not centred here.
        epsilon (`float`, *optional*, defaults to 1e-4): mean squared error of the code, squared units of the features.

    Example:
        >>> round(coding_rate([[1.0], [1.0]], epsilon=1.0), 4), round(0.5 * float(np.log(2)), 4)
        (0.3466, 0.3466)
    """
    features = checked_features(features)
    _check(epsilon)
    return _rate(features, epsilon)


def transrate(features: ArrayLike, labels: ArrayLike, *, epsilon: float = 1e-4) -> float:
    r"""
    TransRate: mutual information of features and classes, estimated by coding rates.

    With features $Z$ less their mean, the rows $Z_c$ of class $c$ of them (less the same mean) and
    $R(Z) = \frac{1}{2} \log \det\bigl(I + \frac{1}{N \epsilon} Z^\top Z\bigr)$,

    $$ R(Z) - \sum_c \frac{N_c}{N} R(Z_c) $$

    Args:
        features (array): `(N, D)`.
        labels (array): classes `(N,)`, any integers.
        epsilon (`float`, *optional*, defaults to 1e-4): mean squared error of the code, squared units of the features;
            the published value.

    Returns:
        `float`, nats, at least 0 (the logarithm of a determinant is concave); higher is better.

    Invariances:
        Shifts, rotations, columns of zeros, the order of the rows and repeating all rows. Not a scale: features twice
        as large are coded with the same error, at a higher rate. Models whose features differ in size are compared in
        part by that size, which is the paper's definition.

    Degenerate cases:
        0 for one class, for one row and for features that do not vary. Classes of one row are coded by that row. With
        fewer rows than columns all is as defined, but classes of few rows are cheap to code whatever they are, so the
        score grows with the width.

    Deviations from the paper:
        The published code weighs all classes alike, which is the same for classes of one size. For others it may turn
        negative; the weights of the paper's definition keep it the estimate of an information.

    Raises:
        ValueError: if features or labels have the wrong shape, are not finite or no classes, or `epsilon` is not
            positive.

    Relations:
        [`h_score`] and [`logme`] do not depend on the size of the features.

    Example:
        >>> features = [[-1.0], [-1.0], [1.0], [1.0]]  # both classes have the same second moment about the mean
        >>> transrate(features, [0, 0, 1, 1]), round(transrate([[-3.0], [1.0], [1.0], [1.0]], [0, 1, 1, 1]), 3)
        (0.0, 0.275)

    Paper: Huang et al., "Frustratingly Easy Transferability Estimation", ICML 2022,
    https://huggingface.co/papers/2106.09362
    """
    features = checked_features(features)
    classes, counts = checked_classes(labels, len(features))
    _check(epsilon)
    features = centred(features)
    if len(counts) == 1:
        return 0.0
    members = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    within = sum(len(rows) * _rate(features[rows], epsilon) for rows in members)
    return max(_rate(features, epsilon) - within / len(features), 0.0)


def _rate(features: np.ndarray, epsilon: float) -> float:
    """From the product of features or of rows, whichever is smaller: they share the eigenvalues that are not zero."""
    rows, width = features.shape
    values = np.linalg.eigvalsh(features.T @ features if width <= rows else features @ features.T)
    # what rounding leaves of zeros would count where features are much larger than the error
    values = values[values > values[-1] * max(rows, width) * np.finfo(np.float64).eps]
    return 0.5 * float(np.log1p(values / (rows * epsilon)).sum())


def _check(epsilon: float) -> None:
    if not (np.isfinite(epsilon) and epsilon > 0):
        raise ValueError(
            f"`epsilon={epsilon}` is not positive: without an error, coding takes infinitely many bits. Give a number "
            "such as 1e-4."
        )
