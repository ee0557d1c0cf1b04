"""Nearest class mean: the one linear classifier that needs no more than one row of each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hf_transfer.features.probes.training import Candidate, Fitted, Training, choose, held_out_score


__all__ = ["fit_class_means"]


def fit_class_means(training: Training, shrinkages: Sequence[float]) -> Fitted:
    r"""
    Logits $\mu_c^\top \Sigma^{-1} x - \mu_c^\top \Sigma^{-1} \mu_c / 2$: up to a number that all classes share, minus
    half the squared distance of $x$ to the class mean $\mu_c$.

    The distance is that of $\Sigma = (1 - s) \Sigma_W + s \, \operatorname{tr}(\Sigma_W) / D \, I$ with the
    covariance $\Sigma_W$ of the rows around the means of their classes. For the shrinkage $s = 1$ it is the Euclidean
    distance, at the scale of the spread within the classes; below 1 directions in which classes are wide count less
    (linear discriminant analysis with equal class frequencies).

    Degenerate batches:
        A class without rows gets zero weights and the smallest bias. With one row of each class there is no spread,
        and the scale is 1.
    """
    shrinkages = sorted(shrinkages, reverse=True)
    judged = _judged(training, shrinkages) if len(shrinkages) > 1 else ()
    chosen, scores = choose(judged, shrinkages)
    weight, bias = _Means.of(training, np.arange(training.rows)).at(float(chosen))
    return Fitted({"weight": weight, "bias": bias}, chosen, scores)


def _judged(training: Training, shrinkages: Sequence[float]) -> Iterator[tuple[Candidate, tuple[float, float]]]:
    for train, held in training.splits():
        means, inputs = _Means.of(training, train), training.inputs[held].astype(np.float64)
        for shrinkage in shrinkages:
            weight, bias = means.at(shrinkage)
            yield shrinkage, held_out_score(inputs @ weight.T + bias, training.targets[held], training.labels)


@dataclass(frozen=True)
class _Means:
    """Class means `(C, D)`, which classes have rows, and the spread around the means in its principal directions."""

    means: np.ndarray
    present: np.ndarray
    spreads: np.ndarray
    vectors: np.ndarray

    @classmethod
    def of(cls, training: Training, rows: np.ndarray) -> _Means:
        inputs, labels = training.inputs[rows].astype(np.float64), training.targets[rows]
        counts = np.bincount(labels, minlength=training.classes)
        means = np.zeros((training.classes, inputs.shape[1]))
        np.add.at(means, labels, inputs)
        means /= np.maximum(counts, 1)[:, None]
        around = inputs - means[labels]
        spreads, vectors = np.linalg.eigh(around.T @ around / len(inputs))
        spreads = np.maximum(spreads, 0.0)
        return cls(means, counts > 0, spreads if spreads.mean() > 1e-12 else np.ones_like(spreads), vectors)

    def at(self, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
        spread = (1 - shrinkage) * self.spreads + shrinkage * self.spreads.mean()
        weight = (self.means @ self.vectors / spread) @ self.vectors.T
        bias = -0.5 * (weight * self.means).sum(1)
        # what all classes share is taken off: the largest logit is then at least 0, the bias of an absent class below
        weight[self.present] -= weight[self.present].mean(0)
        bias -= bias[self.present].mean()
        bias[~self.present] = bias[self.present].min()
        return weight, bias
