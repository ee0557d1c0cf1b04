"""Density ratios from a classifier that tells the domains apart."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from typing_extensions import Self

from hf_transfer.features.probes.training import STRENGTHS
from hf_transfer.features.reweighting.feature_pairs import needs_libraries, read_matrix, read_pair


_ITERATIONS = 2000
_LARGEST = 700.0  # exp of more overflows

__all__ = ["DomainClassifier"]


class DomainClassifier:
    r"""
    A logistic regression of target against source, whose odds are the ratio of their densities.

    With $d(x)$ the probability of target it gives to $x$, and $n_s$, $n_t$ the rows it was fitted to,

    $$ \frac{p_t(x)}{p_s(x)} \approx \frac{n_s}{n_t} \cdot \frac{d(x)}{1 - d(x)} $$

    Args:
        strengths (`Sequence[float]`, *optional*, defaults to 1e-4 to 100):
            Inverse regularisation strengths to choose from (dimensionless), on standardised features. The one with
            the lowest log loss on held-out rows is taken, of equals the smallest.
        folds (`int`, *optional*, defaults to 5):
            Of the cross-validation, at least 2.
        seed (`int`, *optional*, defaults to 0):
            Of the folds.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set.

    Attributes:
        strength (`float`): the chosen one.
        log_loss (`float`): its mean log loss on held-out rows, in nats, each domain counting one half; log 2 where
            the domains cannot be told apart.
        source_ratio (`np.ndarray`): `(n_s,)` ratios of the source rows, each by a classifier that never saw the row.
        rows (`tuple[int, int]`): $n_s$ and $n_t$.

    Degenerate batches:
        Domains of one row, which cannot be held out, get the ratio of the classifier of all rows. Features that do not
        vary give ratios of 1.

    Deviations from the paper:
        The classifier is linear: exact for Gaussians of equal covariance, an approximation otherwise.

    Raises:
        ValueError: if an option is out of range; if the features do not fit each other.
        ImportError: if scikit-learn is not installed.

    Relations:
        [`importance_weights`] clips the held-out ratios of the source and brings them to mean 1. Use this class for
        rows that are no part of the fit, such as those of validation.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> source, target = generator.normal(0, 1, (400, 1)), generator.normal(1, 1, (200, 1))
        >>> classifier = DomainClassifier().fit(source, target)
        >>> ratio = classifier.ratio([[0.5], [2.0]])  # the true one is exp(x - 1 / 2): 1.0 and 4.5
        >>> bool(abs(ratio[0] - 1) < 0.2), bool(abs(ratio[1] - 4.5) < 1.5)
        (True, True)

    Paper: Bickel et al., "Discriminative Learning for Differing Training and Test Distributions", ICML 2007
    """

    def __init__(
        self,
        *,
        strengths: Sequence[float] = STRENGTHS,
        folds: int = 5,
        seed: int = 0,
        column: str = "features",
    ):
        if not len(strengths) or min(strengths) <= 0:
            raise ValueError(
                f"`strengths={tuple(strengths)}` holds none, or one that is not positive: the regression would have "
                "no solution. Give positive numbers, such as (0.01, 1.0)."
            )
        if folds < 2:
            raise ValueError(
                f"`folds={folds}` holds nothing out: every row would be judged by a classifier that saw it, and the "
                "source would look further away than it is. Give at least 2."
            )
        self.strengths = tuple(sorted(strengths))
        self.folds = folds
        self.seed = seed
        self.column = column
        self._fitted: tuple[np.ndarray, float] | None = None

    def fit(self, source: Any, target: Any) -> Self:
        """
        Fit the classifier; labels are not read.

        Args:
            source (`datasets.Dataset` or array): what `extract_features` returned, or `(n_s, D)`.
            target (`datasets.Dataset` or array): alike, `(n_t, D)`.

        Raises:
            ValueError: if the features do not fit each other.
            ImportError: if scikit-learn is not installed.
        """
        needs_libraries("A domain classifier")
        source_rows, target_rows, *groups = read_pair(source, target, column=self.column)
        inputs = np.concatenate([source_rows, target_rows]).astype(np.float64)
        is_target = np.repeat([0, 1], [len(source_rows), len(target_rows)])
        generator = np.random.default_rng(self.seed)
        fold = np.concatenate(
            [
                _folds(len(rows), group, self.folds, generator)
                for rows, group in zip((source_rows, target_rows), groups, strict=True)
            ]
        )
        held_out = self._held_out(inputs, is_target, fold)
        losses = [_balanced_log_loss(log_ratio, is_target) for log_ratio in held_out]
        best = int(np.argmin(losses))
        self.strength, self.log_loss = self.strengths[best], float(losses[best])
        self.rows = len(source_rows), len(target_rows)
        weight, bias = _log_ratio(inputs, is_target, self.strengths[best : best + 1])[0]
        self._fitted = weight, bias
        self.source_ratio = _exp(held_out[best][: len(source_rows)])
        return self

    def _held_out(self, inputs: np.ndarray, is_target: np.ndarray, fold: np.ndarray) -> list[np.ndarray]:
        """For each strength the log ratio of every row, by a classifier that did not see it."""
        log_ratios = [np.zeros(len(inputs)) for _ in self.strengths]
        for number in np.unique(fold):
            held = fold == number
            train = ~held if len(np.unique(is_target[~held])) == 2 else np.ones_like(held)
            for values, (weight, bias) in zip(
                log_ratios, _log_ratio(inputs[train], is_target[train], self.strengths), strict=True
            ):
                values[held] = inputs[held] @ weight + bias
        return log_ratios

    def ratio(self, features: Any) -> np.ndarray:
        """
        $p_t(x) / p_s(x)$ `(N,)` in float64, dimensionless; neither clipped nor brought to mean 1.

        For rows that the classifier was not fitted to; those of the source it was fitted to have `source_ratio`.

        Args:
            features (`datasets.Dataset` or array): as for [`~DomainClassifier.fit`].

        Raises:
            RuntimeError: before `fit`.
            ValueError: if the features have another width than those it was fitted to.
        """
        return _exp(self.log_ratio(features))

    def log_ratio(self, features: Any) -> np.ndarray:
        """The logarithm of [`~DomainClassifier.ratio`], which is linear in the features."""
        if self._fitted is None:
            raise RuntimeError(
                "The domain classifier is not fitted: it knows nothing of the domains. Call `fit(source, target)` "
                "first."
            )
        weight, bias = self._fitted
        rows, _ = read_matrix(features, column=self.column, name="given")
        if rows.shape[1] != len(weight):
            raise ValueError(
                f"The features have width {rows.shape[1]}, the domain classifier was fitted to width {len(weight)}: "
                "they are of another model or another tap. Extract them as those of source and target."
            )
        return rows.astype(np.float64) @ weight + bias


def _exp(log_ratio: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(log_ratio, -_LARGEST, _LARGEST))


def _folds(rows: int, groups: Any, folds: int, generator: np.random.Generator) -> np.ndarray:
    """A fold for each row, all rows of an example in one."""
    numbers = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    examples = int(numbers.max()) + 1
    return generator.permutation(np.arange(examples) % folds)[numbers]


def _balanced_log_loss(log_ratio: np.ndarray, is_target: np.ndarray) -> float:
    losses = np.logaddexp(0, np.where(is_target == 1, -log_ratio, log_ratio))
    return (losses[is_target == 0].mean() + losses[is_target == 1].mean()) / 2


def _log_ratio(
    inputs: np.ndarray, is_target: np.ndarray, strengths: Sequence[float]
) -> list[tuple[np.ndarray, float]]:
    """Weights and bias of the log ratio for each strength, each regression starting where the last one ended."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, scale = inputs.mean(0), inputs.std(0)
    varies = scale > 1e-7 * np.maximum(np.abs(inputs).max(0), np.finfo(np.float64).tiny)
    scale = np.where(varies, scale, 1.0)
    standardised = np.where(varies, (inputs - mean) / scale, 0.0)
    # log odds of the prior, to be taken off: the classifier learned it with the rest
    prior = np.log((is_target == 1).sum() / (is_target == 0).sum())
    solver: Any = LogisticRegression(max_iter=_ITERATIONS, tol=1e-5, warm_start=True)
    found = []
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.set_params(C=strength).fit(standardised, is_target)
        weight = np.where(varies, solver.coef_[0] / scale, 0.0)
        found.append((weight, float(solver.intercept_[0] - weight @ mean - prior)))
    return found
