"""How well linear discriminants tell the classes apart (SFDA, ETran)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .class_statistics import (
    centred,
    checked_classes,
    checked_features,
    checked_targets,
    class_sums,
    gram_spectrum,
    left_coordinates,
)


ENERGY_SHARE = 0.15
"""Weight of the energy over several models, of the code of the ETran paper; the fit to the labels has the rest."""

_LEAST = 1e-10  # shrinkage, and of a ridge relative to the variance of all features

__all__ = ["ENERGY_SHARE", "class_score", "combined_etran", "energy", "etran", "regression_score", "sfda"]


def sfda(features: ArrayLike, labels: ArrayLike) -> float:
    r"""
    Self-challenging Fisher discriminant analysis (SFDA): mean probability of the own class after rows have been moved
    towards the other classes, by as much as they are in doubt.

    With class means $\mu_c$, shares $\pi_c$, the covariance $S_w$ within classes, its largest eigenvalue $\lambda$ and
    $\delta = \max(e^{-5 \lambda}, 10^{-10})$, the discriminant is

    $$ p(c \mid x) \propto \pi_c \exp\bigl(x^\top \Sigma^{-1} \mu_c - \tfrac{1}{2} \mu_c^\top \Sigma^{-1} \mu_c\bigr),
       \qquad \Sigma = (1 - \delta) S_w + \delta \frac{\operatorname{tr} S_w}{D} I $$

    Each row then becomes $q x + (1 - q) \bar\mu_{-y}$ with $q = \operatorname{softmax}_c(p(c \mid x))_y$ and the mean
    $\bar\mu_{-y}$ of the means of all other classes, and the score is the mean of $p(y \mid x)$ of a second
    discriminant, with the same $\delta$, fitted to those rows.

    Args:
        features (array): `(N, D)`. They are not written into.
        labels (array): classes `(N,)`, any integers.

    Returns:
        `float`, a probability; higher is better.

    Invariances:
        Shifts, rotations and the order of the rows. Not a scale: $\delta$ depends on the unit of the features, unless
        both variances are large enough for its lower bound.

    Degenerate cases:
        1 for one class. $\sum \pi_c^2$ for features that do not vary. With fewer rows than columns $S_w$ is singular
        and only $\delta$ keeps rows from being told apart perfectly: unless features are small the score is 1 for any
        labels, also shuffled ones. Use [`logme`] or [`h_score`] there. Where no class varies in itself, as if each has
        one row, $10^{-10}$ of the variance of all features takes the place of $S_w$.

    Deviations from the paper:
        The paper projects on all generalised eigenvectors $W$ of the covariances; as $W W^\top = \Sigma^{-1}$, one
        linear solve is the same. $\lambda$ is exact, not of three steps of a power iteration.

    Raises:
        ValueError: if features or labels have the wrong shape, are not finite or no classes.

    Relations:
        [`class_score`] is the first discriminant's mean probability, without the challenge.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(60, 3))
        >>> sfda(rows, (rows[:, 0] > 0).astype(int)) > sfda(rows, np.arange(60) % 2)
        True

    Paper: Shao et al., "Not All Models Are Equal: Predicting Model Transferability in a Self-challenging Fisher
    Space", ECCV 2022, https://huggingface.co/papers/2207.03036
    """
    rows, classes, counts, width = _prepared(features, labels)
    if len(counts) == 1:
        return 1.0
    own = np.arange(len(rows))
    posterior, shrinkage = _posterior(rows, classes, counts, width)
    doubtful = _softmax(posterior)[own, classes][:, None]
    means = class_sums(rows, classes, counts) / counts[:, None]
    others = (means.sum(axis=0) - means) / (len(counts) - 1)
    mixed = doubtful * rows + (1 - doubtful) * others[classes]
    return float(_posterior(mixed, classes, counts, width, shrinkage)[0][own, classes].mean())


def class_score(features: ArrayLike, labels: ArrayLike) -> float:
    """
    Mean probability that a linear discriminant, regularised as in [`sfda`], gives to the own class of each row.

    The classification score of ETran. Arguments, invariances and degenerate cases are those of [`sfda`].

    Example:
        >>> class_score([[0.0], [0.0], [1.0], [1.0]], [0, 0, 1, 1]), class_score([[1.0], [1.0]], [0, 1])
        (1.0, 0.5)
    """
    rows, classes, counts, width = _prepared(features, labels)
    return float(_posterior(rows, classes, counts, width)[0][np.arange(len(rows)), classes].mean())


def regression_score(features: ArrayLike, targets: ArrayLike) -> float:
    r"""
    Minus the share of the targets' variance that a linear model of the features leaves: the regression score of ETran.

    $-\lVert y - U U^\top y \rVert^2 / \lVert y \rVert^2$ for centred targets $y$ and the left singular vectors $U$ of
    the centred features, averaged over the targets.

    Args:
        features (array): `(N, D)`, any unit.
        targets (array): `(N,)` or `(N, K)`, any unit.

    Returns:
        `float` from -1 to 0, dimensionless; higher is better.

    Invariances:
        Shifts, common scales and rotations of the features and scales of the targets.

    Degenerate cases:
        -1 for features that do not vary. A target that does not vary counts 0: there is nothing to explain.

    Deviations from the paper:
        With all singular vectors N - 1 independent columns explain any target. Only the $(N - 1) / 2$ largest are
        used, which is all of them where N exceeds twice the rank. The squared error is relative to the variance.

    Raises:
        ValueError: if features or targets have the wrong shape or are not finite.

    Example:
        >>> abs(regression_score([[0.0], [1.0], [2.0]], [5.0, 7.0, 9.0])) < 1e-12
        True
        >>> regression_score([[0.0], [1.0], [0.0], [1.0]], [0.0, 0.0, 1.0, 1.0])
        -1.0
    """
    features = checked_features(features)
    found = centred(checked_targets(targets, len(features)))
    squares = np.square(found).sum(axis=0)
    _, x = left_coordinates(centred(features), found)
    kept = np.square(x[len(x) - min(len(x), (len(features) - 1) // 2) :]).sum(axis=0)
    left = np.divide(np.maximum(squares - kept, 0.0), squares, out=np.zeros_like(squares), where=squares > 0)
    return -float(left.mean())


def energy(logits: ArrayLike) -> float:
    r"""
    Mean over rows of $\log \frac{1}{K} \sum_k e^{z_k}$: minus the free energy that a source model gives to the rows.

    Args:
        logits (array): $z$, `(N, K)`: of the source model's own classes, or its features (see [`etran`]).

    Returns:
        `float`, nats; higher where rows look more like the data of the source.

    Example:
        >>> energy([[0.0, 0.0], [2.0, 2.0]])
        1.0
    """
    found = checked_features(logits)
    largest = found.max(axis=1)
    return float((largest + np.log(np.exp(found - largest[:, None]).mean(axis=1))).mean())


def etran(
    features: ArrayLike, labels: ArrayLike, *, regression: bool = False, source_logits: ArrayLike | None = None
) -> float:
    r"""
    Energy-based transferability (ETran): [`energy`] of the source model, which needs no labels, plus how well its
    features fit the labels, by [`class_score`] or [`regression_score`].

    Args:
        features (array): `(N, D)`.
        labels (array): classes `(N,)`, any integers; or real targets `(N,)` or `(N, K)` with `regression=True`.
        regression (`bool`, *optional*, defaults to `False`): whether labels are real targets.
        source_logits (array, *optional*): `(N, Z)`, logits of the source model's own classes. Without them, as for a
            model without a head, the features take their place, as in all experiments of the paper's code.

    Returns:
        `float`; higher is better. Only models scored alike, all with source logits or none, can be compared.

    Invariances:
        The order of the rows. Source logits make it one of shifts and rotations of the features. Not a scale, nor,
        without source logits, a rotation: the energy reads single columns, in their unit.

    Degenerate cases:
        Those of the two parts; the energy is finite for any rows.

    Deviations from the paper:
        The energy is that of the mean over K outputs, not of their sum, which would add $\log K$ for a wider model
        whatever it holds. It is the mean over all rows; the paper's code takes the 0.5% of rows where it is lowest.
        That code also scales both parts to [0, 1] over the models before it adds them: [`combined_etran`] does so, and
        is to be preferred where several models are at hand, as nats and a probability have no common unit.

    Raises:
        ValueError: if an array has the wrong shape, is not finite or, for labels, no classes.

    Relations:
        [`sfda`] for a score of the labels alone.

    Example:
        >>> features, labels = [[0.0], [0.0], [1.0], [1.0]], [0, 0, 1, 1]
        >>> etran(features, labels), etran(features, labels, source_logits=np.zeros((4, 10)))
        (1.5, 1.0)

    Paper: Gholami et al., "ETran: Energy-Based Transferability Estimation", ICCV 2023,
    https://huggingface.co/papers/2308.02027
    """
    features = checked_features(features)
    logits = features if source_logits is None else checked_features(source_logits)
    if len(logits) != len(features):
        raise ValueError(
            f"Source logits of {len(logits)} rows were given for {len(features)} rows of features: both must be of "
            "the same examples. Give one row of logits for each, or leave them out."
        )
    return energy(logits) + (regression_score if regression else class_score)(features, labels)


def combined_etran(energies: ArrayLike, fits: ArrayLike, *, energy_share: float = ENERGY_SHARE) -> np.ndarray:
    """
    ETran of several models: both parts scaled to [0, 1] over the models, then weighted.

    Args:
        energies (array): `(M,)`, [`energy`] of each model.
        fits (array): `(M,)`, [`class_score`] or [`regression_score`] of each model.
        energy_share (`float`, *optional*, defaults to 0.15): weight of the energy, from 0 to 1.

    Returns:
        `(M,)`, dimensionless, from 0 to 1. A part in which all models are equal counts 0.

    Raises:
        ValueError: if the two do not fit each other or `energy_share` is outside [0, 1].

    Example:
        >>> combined_etran([2.0, 4.0, 3.0], [0.5, 0.5, 0.9]).round(3).tolist()
        [0.0, 0.15, 0.925]
    """
    parts = np.asarray(energies, dtype=np.float64), np.asarray(fits, dtype=np.float64)
    if parts[0].shape != parts[1].shape or parts[0].ndim != 1 or not len(parts[0]):
        raise ValueError(
            f"Energies of shape {parts[0].shape} and fits of shape {parts[1].shape} were given: each model has one of "
            "each. Give two arrays of one number for each model."
        )
    if not 0 <= energy_share <= 1:
        raise ValueError(
            f"`energy_share={energy_share}` is outside [0, 1]: it is a weight. Give a share such as 0.15."
        )
    scaled = [(part - part.min()) / (np.ptp(part) or 1.0) for part in parts]
    return energy_share * scaled[0] + (1 - energy_share) * scaled[1]


def _prepared(features: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Centred features, in a basis of their rows where these are fewer than columns; classes, counts and the width."""
    rows = checked_features(features)
    width = rows.shape[1]
    classes, counts = checked_classes(labels, len(rows))
    rows = centred(rows)
    if width > len(rows):
        # nothing here depends on directions that no row has
        values, vectors = gram_spectrum(rows)
        rows = vectors * np.sqrt(values)
    return rows, classes, counts, width


def _posterior(
    rows: np.ndarray, classes: np.ndarray, counts: np.ndarray, width: int, shrinkage: float | None = None
) -> tuple[np.ndarray, float]:
    """Probabilities `(N, C)` of the regularised discriminant, and its shrinkage, by default that of the features."""
    means = class_sums(rows, classes, counts) / counts[:, None]
    within = rows - means[classes]
    covariance = within.T @ within / len(rows)
    if shrinkage is None:
        largest = np.linalg.eigvalsh(covariance)[-1] if len(covariance) else 0.0
        shrinkage = max(float(np.exp(-5 * largest)), _LEAST)
    total = np.square(rows - rows.mean(axis=0)).sum() / len(rows)
    if total == 0:  # features do not vary
        return np.broadcast_to(counts / len(rows), (len(rows), len(counts))), shrinkage
    ridge = max(shrinkage * np.trace(covariance), _LEAST * total) / width
    covariance *= 1 - shrinkage
    covariance.flat[:: len(covariance) + 1] += ridge
    weights = np.linalg.solve(covariance, means.T)
    logits = rows @ weights - 0.5 * (means.T * weights).sum(axis=0) + np.log(counts / len(rows))
    return _softmax(logits), shrinkage


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
