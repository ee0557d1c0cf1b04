"""How much the classes overlap as Gaussians (GBC)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .class_statistics import centred, checked_classes, checked_features, class_sums, gram_spectrum


__all__ = ["gbc"]

_FLOOR = 1e-4  # least variance of a class along a component, of the mean variance of all rows along all components
_AT_ONCE = 2**22  # numbers in an array of pairs of classes and components


def gbc(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    components: int = 64,
    covariance: Literal["diagonal", "spherical"] = "diagonal",
) -> float:
    r"""
    Gaussian Bhattacharyya coefficient (GBC): minus the overlap of all pairs of classes, each taken as a Gaussian.

    On the first `components` principal components, with mean $\mu_i$ and variances $v_i$ of class $i$ along them and
    $\bar v = (v_i + v_j) / 2$,

    $$ -\sum_{i \ne j} e^{-B_{ij}}, \qquad B_{ij} = \frac{1}{8} \sum_d \frac{(\mu_{id} - \mu_{jd})^2}{\bar v_d}
       + \frac{1}{2} \sum_d \log \frac{\bar v_d}{\sqrt{v_{id} v_{jd}}} $$

    Args:
        features (array): `(N, D)`, any unit.
        labels (array): classes `(N,)`, any integers.
        components (`int`, *optional*, defaults to 64): principal components that are kept, at most the rank; the
            paper's value.
        covariance (`"diagonal"` or `"spherical"`, *optional*, defaults to `"diagonal"`): a variance for each class and
            component, or one for each class.

    Returns:
        `float`, dimensionless, from $-C (C - 1)$ where all classes are the same Gaussian to 0 where none overlap;
        higher is better. Both orders of a pair count, as in the paper.

    Invariances:
        Shifts, a common scale and the order of the rows; rotations too, as the axes are the principal components (with
        `"diagonal"`, as long as no two of them have the same variance). Not a scale of single columns.

    Degenerate cases:
        0 for one class: there is no pair. $-C (C - 1)$ for features that do not vary. Classes of one row have the
        pooled variance. With fewer rows than columns there are at most N - 1 components.

    Deviations from the paper:
        The variance of a class of few rows is hardly known, and that of one row zero. So each class counts one
        more squared deviation, the pooled variance within classes: $\bigl(\sum_{x \in c} (x - \mu_c)^2 + v\bigr) /
        N_c$, which estimates without bias where classes share a variance and forgets $v$ as $1 / N_c$. Where all
        classes have one row, $v$ is the variance of all rows. No variance is below $10^{-4}$ of the mean variance of
        the components.

    Raises:
        ValueError: if features or labels have the wrong shape, are not finite or no classes, `components` is not
            positive or `covariance` is none of the two.

    Relations:
        [`sfda`] assumes that classes share a covariance, which needs fewer rows; [`h_score`] does not care how far
        classes that are apart already are.

    Example:
        >>> features = [[0.0], [2.0], [10.0], [12.0]]
        >>> gbc(features, [0, 0, 1, 1]) > gbc(features, [0, 1, 0, 1]), gbc(features, [3, 3, 3, 3])
        (True, 0.0)

    Paper: Pandy et al., "Transferability Estimation using Bhattacharyya Class Separability", CVPR 2022,
    https://huggingface.co/papers/2111.12780
    """
    features = checked_features(features)
    classes, counts = checked_classes(labels, len(features))
    if components < 1:
        raise ValueError(
            f"`components={components}` keeps no component: nothing is left to compare. Give 64, or more."
        )
    if covariance not in ("diagonal", "spherical"):
        raise ValueError(
            f"`covariance={covariance!r}` is not known: classes need a variance each. Give 'diagonal' or 'spherical'."
        )
    number = len(counts)
    if number == 1:
        return 0.0
    projected = _components(centred(features), components)
    if not projected.size:
        return -float(number * (number - 1))
    means = class_sums(projected, classes, counts) / counts[:, None]
    deviations = class_sums(np.square(projected - means[classes]), classes, counts)
    total = np.square(projected).mean(axis=0)
    pooled = deviations.sum(axis=0) / (len(features) - number) if len(features) > number else total
    variances = (deviations + pooled) / counts[:, None]
    if covariance == "spherical":
        variances = np.broadcast_to(variances.mean(axis=1, keepdims=True), variances.shape)
    return -_overlap(means, np.maximum(variances, _FLOOR * total.mean()))


def _components(features: np.ndarray, number: int) -> np.ndarray:
    """Centred features on their first principal components, `(N, at most number)`."""
    values, vectors = gram_spectrum(features)
    vectors = vectors[:, -number:]
    return features @ vectors if features.shape[1] <= len(features) else vectors * np.sqrt(values[-number:])


def _overlap(means: np.ndarray, variances: np.ndarray) -> float:
    """Sum of the coefficients over all ordered pairs, some classes against all others at a time."""
    number, width = means.shape
    logarithms = 0.5 * np.log(variances).sum(axis=1)
    total = 0.0
    step = max(1, _AT_ONCE // (number * width))
    for start in range(0, number, step):
        some = slice(start, start + step)
        between = 0.5 * (variances[some, None] + variances)
        distance = 0.125 * (np.square(means[some, None] - means) / between).sum(axis=2)
        distance += 0.5 * (np.log(between).sum(axis=2) - logarithms[some, None] - logarithms)
        np.fill_diagonal(distance[:, start:], np.inf)  # a class beside itself is no pair
        total += float(np.exp(-distance).sum())
    return total
