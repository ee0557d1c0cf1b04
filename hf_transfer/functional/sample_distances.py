"""Whether rows that are far apart in features are of different classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_transfer.functional.class_statistics import centred, checked_classes, checked_features
from hf_transfer.functional.label_transfer import drawn_rows, no_sklearn, refuse_swapped


__all__ = ["parc"]


def parc(
    features: ArrayLike, labels: ArrayLike, *, components: int = 32, seed: int = 0, max_rows: int | None = 2000
) -> float:
    r"""
    Pairwise annotation representation comparison (PARC): do distances between rows follow their labels?

    With $r_{ij}$ the Pearson correlation of the features of rows $i$ and $j$, taken over their whitened principal
    components, and $s_{ij}$ that of their one-hot labels,

    $$ 100 \cdot \rho_{\text{Spearman}} \bigl( \{1 - r_{ij}\}_{i < j}, \{1 - s_{ij}\}_{i < j} \bigr) $$

    Args:
        features (array): `(N, D)`, as the source model makes them of the target's rows.
        labels (array): integers `(N,)`, the class of each row; or real values `(N,)` or `(N, K)` of a regression.
        components (`int`, *optional*, defaults to 32): principal components that are kept, at least 2; the paper's.
        seed (`int`, *optional*, defaults to 0): of the draw of rows.
        max_rows (`int`, *optional*, defaults to 2000): most rows, drawn at random if there are more, as time and
            memory grow with their square; `None` for all. The paper's probe sets have 500.

    Shape:
        - returns a number in [-100, 100], dimensionless; higher is better. Labels have two distances only, and ties
          cost rank correlation: 100 is for features that have two as well. Compare it for the same rows only.

    Degenerate cases:
        Nothing is correlated with what does not vary: 0 for one class, for a class of its own for every row, and for
        features with fewer than two directions of variance. A row at the mean of all has the correlation 0 to others.

    Deviations from the paper:
        The sign of each component is that which makes its largest score positive; it is arbitrary in a decomposition,
        and the Pearson correlation over components depends on it. So rotating the features changes nothing. The paper
        has classes only: the distance of real labels is Euclidean, with each column scaled to a variance of 1.

    Raises:
        ValueError: if `components` is below 2; if the arguments are swapped or their numbers of rows differ; if a
            feature is not finite.
        ImportError: without scikit-learn.

    Relations:
        [`nleep`] asks for clusters, this for distances: of these two only PARC has no parameters to fit.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> classes = np.arange(60) % 3
        >>> features = 5 * np.eye(3, 8)[classes] + generator.normal(size=(60, 8))
        >>> parc(features, classes) > 40 > abs(parc(features, generator.permutation(classes)))
        True

    Paper: Bolya et al., "Scalable Diverse Model Selection for Accessible Transfer Learning", NeurIPS 2021,
    https://huggingface.co/papers/2111.06977
    """
    if components < 2:
        raise ValueError(
            f"`components={components}`: one number a row has no correlation with another. Give at least 2, such as "
            "the default 32."
        )
    refuse_swapped(features, labels, "parc(features, labels)")
    table = checked_features(features)
    targets = _targets(labels, len(table))
    table, targets = drawn_rows(table, targets, max_rows, seed)
    places = _whitened(table, components)
    if places.shape[1] < 2 or len(table) < 3:
        return 0.0
    from scipy.stats import rankdata

    upper = np.triu_indices(len(table), 1)
    ranks = rankdata(-_row_correlations(places)[upper])
    if targets.ndim == 1:  # two distances: an affine map of their ranks is as good as the ranks
        others = (targets[upper[0]] != targets[upper[1]]).astype(np.float64)
    else:
        others = rankdata(_distances(targets)[upper])
    ranks -= ranks.mean()
    others -= others.mean()
    length = np.sqrt((ranks**2).sum() * (others**2).sum())
    return float(100 * (ranks * others).sum() / length) if length > 0 else 0.0


def _targets(labels: ArrayLike, rows: int) -> np.ndarray:
    """Class numbers `(N,)`, or real labels `(N, K)`, each of its columns with a variance of 1."""
    values = np.asarray(labels)
    if values.dtype.kind != "f" or values.shape[:1] != (rows,) or values.ndim > 2:
        return checked_classes(values, rows)[0]
    real = centred(checked_features(values.reshape(rows, -1)))
    spread = real.std(0)
    return real / np.where(spread > 0, spread, 1.0)


def _whitened(table: np.ndarray, components: int) -> np.ndarray:
    """`(N, K)` scores of the first components, each of variance 1; components without variance are left out."""
    try:
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise no_sklearn("PARC") from error
    rows = centred(table)
    size = np.abs(rows).max()
    if size == 0:
        return rows[:, :0]
    solver: Any = "covariance_eigh" if len(table) > table.shape[1] else "full"
    places = PCA(min(components, *table.shape), svd_solver=solver).fit_transform(rows / size)
    spread = places.std(0)
    kept = spread > 1e-7 * spread[0]
    places = places[:, kept] / spread[kept]
    return places * np.sign(places[np.abs(places).argmax(0), np.arange(places.shape[1])])


def _distances(rows: np.ndarray) -> np.ndarray:
    """`(N, N)`, Euclidean, rounded as the correlations are."""
    squares = sum((column[:, None] - column) ** 2 for column in rows.T)
    return np.round(np.sqrt(squares), 12)


def _row_correlations(places: np.ndarray) -> np.ndarray:
    """`(N, N)`, rounded so that pairs whose correlations differ by rounding alone are ties."""
    rows = places - places.mean(1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1)
    constant = lengths <= 1e-12 * max(float(lengths.max()), np.finfo(np.float64).tiny)
    directions = rows / np.where(constant, 1.0, lengths)[:, None]
    directions[constant] = 0.0
    return np.round(directions @ directions.T, 12)
