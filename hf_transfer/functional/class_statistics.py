"""What the transferability scores share: checked inputs, sums by class, centred features and their spectrum."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


__all__ = [
    "centred",
    "checked_classes",
    "checked_features",
    "checked_targets",
    "class_sums",
    "gram_spectrum",
    "left_coordinates",
]

_ROUNDING = 1e-12  # what centring a constant column leaves, relative to it


def checked_features(features: ArrayLike) -> np.ndarray:
    """
    `(N, D)` in float64, as they are if they were that already: nothing here writes into them.

    Raises:
        ValueError: if they are no matrix of at least one row and one column, or hold a number that is not finite.

    Example:
        >>> checked_features([[1, 2], [3, 4]]).dtype
        dtype('float64')
    """
    found = np.asarray(features, dtype=np.float64)
    if found.ndim != 2 or not found.size:
        raise ValueError(
            f"Features of shape {found.shape} were given: the score needs one row of numbers for each example. Give "
            "`(N, D)`; pool tokens or positions first."
        )
    if not np.isfinite(found).all():
        rows = np.flatnonzero(~np.isfinite(found).all(axis=1))
        raise ValueError(
            f"{len(rows)} of {len(found)} rows of the features hold numbers that are not finite, row {rows[0]} first: "
            "so would be the score. Extract the features in single precision, or leave the model out."
        )
    return found


def checked_classes(labels: ArrayLike, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Labels of any integers as class numbers `(N,)` from 0 to C - 1, and how many rows each class has, `(C,)`.

    Classes without a row do not exist here: C is the number of labels that occur.

    Raises:
        ValueError: if there is not one label for each row, or a label is no integer.

    Example:
        >>> checked_classes([7, -1, 7], 3)
        (array([1, 0, 1]), array([1, 2]))
    """
    found = np.asarray(labels)
    if found.shape != (rows,):
        raise ValueError(
            f"Labels of shape {found.shape} were given for {rows} rows of features: row i of both must be of one "
            f"example. Give `({rows},)`, one class for each row."
        )
    if found.dtype.kind not in "biu" and not (found.dtype.kind == "f" and np.array_equal(found, np.round(found))):
        raise ValueError(
            f"Labels of type {found.dtype} that are no integers were given, such as {found[0]!r}: every value would "
            "be a class of its own. Give class numbers, or use a score with `regression=True` for real targets."
        )
    _, classes, counts = np.unique(found, return_inverse=True, return_counts=True)
    return classes, counts


def checked_targets(labels: ArrayLike, rows: int) -> np.ndarray:
    """
    Real targets as `(N, K)` in float64, from one or several for each row.

    Raises:
        ValueError: if their rows are not `rows`, or one is not finite.

    Example:
        >>> checked_targets([1, 2], 2).tolist()
        [[1.0], [2.0]]
    """
    found = np.asarray(labels, dtype=np.float64)
    if found.ndim not in (1, 2) or len(found) != rows or not found.size:
        raise ValueError(
            f"Targets of shape {found.shape} were given for {rows} rows of features: row i of both must be of one "
            f"example. Give `({rows},)` or `({rows}, K)`."
        )
    if not np.isfinite(found).all():
        raise ValueError(
            f"{int((~np.isfinite(found)).sum())} targets are not finite: so would be the score. Leave rows without "
            "a target out."
        )
    return found.reshape(rows, -1)


def class_sums(features: np.ndarray, classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """
    `(C, D)`: the rows of each class added up.

    Example:
        >>> class_sums(np.array([[1.0], [2.0], [4.0]]), np.array([1, 0, 1]), np.array([1, 2])).tolist()
        [[2.0], [5.0]]
    """
    members = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    # one class after the other stays in the cache: 6 times faster than `reduceat` or a one-hot product here
    return np.stack([features[rows].sum(axis=0) for rows in members])


def centred(features: np.ndarray) -> np.ndarray:
    """
    Features less their mean, a copy; columns that do not vary beyond rounding become exact zeros.

    Example:
        >>> centred(np.array([[0.1, 1.0], [0.1, 3.0], [0.1, 5.0]])).tolist()
        [[0.0, -2.0], [0.0, 0.0], [0.0, 2.0]]
    """
    found = features - features.mean(axis=0)
    found[:, np.ptp(features, axis=0) <= _ROUNDING * np.abs(features).max(axis=0)] = 0.0
    return found


def gram_spectrum(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""
    Squared singular values of $F$ and one side's singular vectors, from the smaller of $F^\top F$ and $F F^\top$.

    Returns:
        $s$ `(k,)`, ascending, and the right singular vectors `(D, k)` where $N \ge D$, else the left ones `(N, k)`,
        for the rank $k$. What is below $\max(N, D)\,\epsilon$ of the largest $s$ counts as zero: these are singular
        values below about $10^{-6}$ of the largest, which features in single precision do not hold.

    Example:
        >>> gram_spectrum(np.array([[3.0, 0.0], [0.0, 0.0], [0.0, 2.0]]))[0].tolist()
        [4.0, 9.0]
        >>> gram_spectrum(np.array([[3.0, 4.0, 0.0]]))[1].shape  # N < D: left singular vectors
        (1, 1)
    """
    rows, width = features.shape
    values, vectors = np.linalg.eigh(features.T @ features if width <= rows else features @ features.T)
    keep = values > values[-1] * max(rows, width) * np.finfo(np.float64).eps
    keep &= values > 0
    return values[keep], vectors[:, keep]


def left_coordinates(
    features: np.ndarray, targets: np.ndarray, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""
    Squared singular values $s$ `(k,)` of $F = U S V^\top$, and $U^\top Y$ `(k, C)`: all that a linear model of $Y$ on
    $F$ depends on.

    Args:
        features (`np.ndarray`): `(N, D)`.
        targets (`np.ndarray`): class numbers `(N,)` in place of one-hot columns, or `(N, C)` real targets.
        counts (`np.ndarray`, *optional*): `(C,)`, rows of each class; given exactly for class numbers.

    Where $N \ge D$, $U^\top Y = S^{-1} V^\top F^\top Y$, so neither $U$ nor a product of $N \times D$ entries for each
    class is ever made.

    Example:
        >>> s, x = left_coordinates(np.array([[2.0], [0.0]]), np.array([0, 1]), np.array([1, 1]))
        >>> s.tolist(), np.abs(x).tolist()
        ([4.0], [[1.0, 0.0]])
    """
    values, vectors = gram_spectrum(features)

    def product(matrix: np.ndarray) -> np.ndarray:
        return matrix.T @ targets if counts is None else class_sums(matrix, targets, counts).T

    if features.shape[1] > len(features):
        return values, product(vectors)
    return values, vectors.T @ product(features) / np.sqrt(values)[:, None]
