"""How well the answers of a source model, or clusters of its features, tell the classes of a target."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_transfer.functional.class_statistics import centred, checked_classes, checked_features, class_sums


ENERGY = 0.8
"""Share of the variance that the components of NLEEP keep; the paper's."""

CLUSTERS_PER_CLASS = 5
"""Gaussians of the mixture of NLEEP for each class; the paper's."""

_ROWS_PER_CLUSTER = 5  # with fewer a cluster is a row or two, and tells their class whatever the features are
_ITERATIONS = 20

__all__ = ["CLUSTERS_PER_CLASS", "ENERGY", "drawn_rows", "leep", "nce", "nleep", "no_sklearn", "refuse_swapped"]


def leep(source_probabilities: ArrayLike, labels: ArrayLike) -> float:
    r"""
    Log expected empirical prediction (LEEP): mean log likelihood of the target's classes, predicted from what a source
    classifier says of the target's rows.

    With $p(z \mid x_i)$ the probability of source class $z$ for target row $x_i$ of class $y_i$,

    $$ \frac{1}{N} \sum_i \log \sum_z \hat P(y_i \mid z) \, p(z \mid x_i), \qquad
       \hat P(y \mid z) = \frac{\sum_{i : y_i = y} p(z \mid x_i)}{\sum_i p(z \mid x_i)} $$

    Args:
        source_probabilities (array): $p(z \mid x_i)$, `(N, Z)`: the softmax of the source model's head over its own
            classes, for the rows of the target.
        labels (array of integers): `(N,)`, the class of each row; which numbers they are does not matter.

    Shape:
        - returns nats per row, at most 0, at least minus the entropy of the classes; higher is better.

    Degenerate cases:
        One target class gives 0: there is nothing to predict. One source class, or the same probabilities for all
        rows, give minus the entropy of the target's classes. A source class that no row is given has no part in it.

    Raises:
        ValueError: if the arguments are swapped; if rows are no probabilities; if the numbers of rows differ.

    Relations:
        [`nce`] is the same for a source that answers with one class a row. [`nleep`] does without a source head, and
        is the better choice where source and target classes have little in common.

    Example:
        >>> round(leep([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [0, 1, 1]), 4)  # -(2/3) log 2
        -0.4621

    Paper: Nguyen et al., "LEEP: A New Measure to Evaluate Transferability of Learned Representations", ICML 2020,
    https://huggingface.co/papers/2002.12462
    """
    probabilities = np.asarray(source_probabilities, dtype=np.float64)
    refuse_swapped(probabilities, labels, "leep(source_probabilities, labels)")
    if probabilities.ndim != 2 or not probabilities.size:
        raise ValueError(
            f"`source_probabilities` has shape {probabilities.shape}: LEEP weighs every source class of every row. "
            "Pass the softmax of the source head, `(N, Z)`; for one source class a row call `nce`."
        )
    sums = probabilities.sum(1)
    # half precision and a thousand classes leave sums this far from 1
    if not (probabilities >= 0).all() or not (np.abs(sums - 1) < 2e-2).all():
        raise ValueError(
            f"Rows of `source_probabilities` lie in [{probabilities.min():.3g}, {probabilities.max():.3g}] and sum to "
            f"[{sums.min():.3g}, {sums.max():.3g}]: they are no probabilities, and the score would be no likelihood. "
            "Pass the softmax of the logits."
        )
    numbers, counts = checked_classes(labels, len(probabilities))
    probabilities = probabilities / sums[:, None]
    joint = class_sums(probabilities, numbers, counts)
    totals = joint.sum(0)
    conditional = joint / np.where(totals > 0, totals, 1.0)
    expected = np.einsum("nz,nz->n", conditional[numbers], probabilities)
    # a row is among those that P(y | z) is counted from, so nothing here is zero
    return min(float(np.log(expected).mean()), 0.0)


def nce(source_labels: ArrayLike, labels: ArrayLike) -> float:
    r"""
    Negative conditional entropy (NCE): how much the source's class of a row leaves open about its target class.

    $$ -H(Y \mid Z) = \sum_{y, z} \hat P(y, z) \log \frac{\hat P(y, z)}{\hat P(z)} $$

    over the pairs of classes that occur. It is not symmetric: the target is what is predicted.

    Args:
        source_labels (array of integers): $z_i$, `(N,)`: the source's class of each target row, such as the argmax of
            its head.
        labels (array of integers): $y_i$, `(N,)`: the target's class of each row.

    Shape:
        - returns nats per row, at most 0; higher is better.

    Degenerate cases:
        One target class, or a source class of its own for each row, give 0: the latter is no sign of transfer. One
        source class gives minus the entropy of the target's classes.

    Raises:
        ValueError: if one of them is not one integer a row; if the numbers of rows differ.

    Relations:
        [`leep`] uses the probabilities of the source, and equals this where they are 0 and 1.

    Example:
        >>> round(nce([0, 0, 1], [0, 1, 1]), 4), round(nce([0, 1, 1], [0, 0, 0]), 4)  # -(2/3) log 2
        (-0.4621, 0.0)

    Paper: Tran et al., "Transferability and Hardness of Supervised Classification Tasks", ICCV 2019,
    https://huggingface.co/papers/1908.08142
    """
    shape = np.shape(source_labels)
    if len(shape) != 1 or not shape[0]:
        raise ValueError(
            f"`source_labels` has shape {shape}: NCE counts the rows of each source class. Pass one class for each "
            "row, `(N,)`, such as the argmax of the source head; for its probabilities call `leep`."
        )
    sources, rows = checked_classes(source_labels, shape[0])
    targets, _ = checked_classes(labels, shape[0])
    pairs, counts = np.unique(np.stack([sources, targets]), axis=1, return_counts=True)
    # only pairs that occur: there is no 0 log 0
    return min(float((counts * np.log(counts / rows[pairs[0]])).sum() / shape[0]), 0.0)


def nleep(features: ArrayLike, labels: ArrayLike, *, seed: int = 0, max_rows: int | None = 5000) -> float:
    r"""
    NLEEP: [`leep`] with the clusters of a Gaussian mixture in place of source classes.

    Features are reduced to the principal components that hold 80% of the variance. A mixture of five Gaussians for
    each class is fitted to them without the labels, and $p(v \mid x)$, the posterior of Gaussian $v$, takes the place
    of $p(z \mid x)$. It fits any model, also one without a head.

    Args:
        features (array): `(N, D)`, as the source model makes them of the target's rows.
        labels (array of integers): `(N,)`, the class of each row.
        seed (`int`, *optional*, defaults to 0): of the start of the mixture, and of the draw of rows.
        max_rows (`int`, *optional*, defaults to 5000): most rows, drawn at random if there are more; `None` for all.

    Shape:
        - returns nats per row, at most 0; higher is better. Compare it for the same rows only.

    Degenerate cases:
        Constant features give minus the entropy of the classes, one class gives 0. There are at least 5 rows to a
        Gaussian on average as far as that leaves one for each class: with only a few rows of each class the score is
        too high, for every model.

    Deviations from the paper:
        Gaussians have diagonal covariances: with 10 rows each a full one is singular, and takes minutes for 100
        classes. With fewer than 25 rows a class there are fewer Gaussians than five for each. At most 20 steps of EM,
        after which scores hardly move.

    Raises:
        ValueError: if the arguments are swapped or their numbers of rows differ; if a feature is not finite.
        ImportError: without scikit-learn.

    Relations:
        Its clusters come from the same rows, so features that cluster by class score high even where no linear
        classifier is needed; `logme` and a linear probe judge the linear head.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> classes = np.arange(200) % 2
        >>> features = generator.normal(size=(200, 8))
        >>> nleep(features + 9 * classes[:, None], classes) > nleep(features, classes)
        True

    Paper: Li et al., "Ranking Neural Checkpoints", CVPR 2021, https://huggingface.co/papers/2011.11200
    """
    refuse_swapped(features, labels, "nleep(features, labels)")
    table = checked_features(features)
    numbers, _ = checked_classes(labels, len(table))
    table, numbers = drawn_rows(table, numbers, max_rows, seed)
    posteriors = _posteriors(_main_components(table), len(np.unique(numbers)), seed)
    return leep(posteriors, numbers)


def refuse_swapped(first: ArrayLike, labels: ArrayLike, call: str) -> None:
    """
    Refuse a column in place of the table, with a table in place of the labels.

    Raises:
        ValueError: as said.
    """
    if np.ndim(first) == 1 and np.ndim(labels) == 2:
        raise ValueError(
            f"Arguments of shapes {np.shape(first)} and {np.shape(labels)} were given: they are swapped, and "
            f"the score would be of something else. Call `{call}`."
        )


def drawn_rows(
    table: np.ndarray, numbers: np.ndarray, max_rows: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most so many rows, drawn without replacement and kept in their order, and what belongs to them."""
    if max_rows is None or len(table) <= max_rows:
        return table, numbers
    chosen = np.sort(np.random.default_rng(seed).permutation(len(table))[: max(max_rows, 2)])
    return table[chosen], numbers[chosen]


def no_sklearn(who: str) -> ImportError:
    """The error of a score where scikit-learn is missing."""
    return ImportError(
        f"{who} needs scikit-learn, which is not installed: it brings features to fewer dimensions. Run "
        '`pip install "hf-transfer-learning[recipes]"`.'
    )


def _main_components(table: np.ndarray) -> np.ndarray:
    """`(N, K)` with [`ENERGY`] of the variance, scaled to a mean variance of 1; no column if nothing varies."""
    try:
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise no_sklearn("NLEEP") from error
    rows = centred(table)
    size = np.abs(rows).max()
    if size == 0:
        return rows[:, :0]
    solver: Any = "covariance_eigh" if len(table) > table.shape[1] else "full"
    places = PCA(ENERGY, svd_solver=solver).fit_transform(rows / size)
    return places / np.sqrt(places.var(0).mean())


def _posteriors(places: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """`(N, V)`, of the Gaussians of a mixture."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    wanted = min(CLUSTERS_PER_CLASS * classes, max(classes, len(places) // _ROWS_PER_CLUSTER))
    # k-means, which it starts from, cannot make more clusters than there are different rows
    clusters = min(wanted, len(np.unique(places.round(9), axis=0))) if places.shape[1] else 1
    if clusters == 1:
        return np.ones((len(places), 1))
    mixture = GaussianMixture(clusters, covariance_type="diag", max_iter=_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(places).predict_proba(places)
