"""The score of every row of a run, by which runs are compared pair by pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_transfer.compare.cells import Predictions


__all__ = ["RowScores", "row_scores"]


@dataclass(frozen=True)
class RowScores:
    """
    Scores of the rows of one run, more of which is better.

    Args:
        ids (`np.ndarray`): numbers of the rows, `(N,)`.
        scores (`np.ndarray`): `(N,)` float64: 1 where the class was right and 0 where not; for tokens the share of
            those of the row that were right; for a regression minus the squared error.
        weights (`np.ndarray`): `(N,)` float64, what a row counts: the labelled tokens of it, else 1.
        labels (`np.ndarray`, *optional*): `(N,)` classes of the rows; `None` for tokens and regressions.
    """

    ids: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    labels: np.ndarray | None = None

    @property
    def mean(self) -> float:
        """The weighted mean: accuracy, or minus the mean squared error."""
        return float(np.average(self.scores, weights=self.weights))


def row_scores(predictions: Predictions, *, regression: bool = False) -> RowScores:
    """
    The score of every row.

    Args:
        predictions (`Predictions`): of a run on a split.
        regression (`bool`, *optional*, defaults to `False`): whether labels are real values.

    Degenerate:
        Rows of tokens without a label have weight 0. Logits that are not finite are wrong.

    Raises:
        ValueError: for a regression whose predictions are not finite.

    Example:
        >>> said = Predictions(np.arange(3), np.array([0, 1, 1]), np.array([[2.0, 1], [0, 1], [1, 0]]))
        >>> row_scores(said).scores.tolist(), round(row_scores(said).mean, 2)
        ([1.0, 1.0, 0.0], 0.67)
    """
    labels, logits = predictions.labels, predictions.logits.astype(np.float64)
    if regression:
        if not np.isfinite(logits).all():
            raise ValueError(
                f"{np.count_nonzero(~np.isfinite(logits))} of {logits.size} predictions are not finite: their error "
                "would swallow all others. Lower the learning rate of this strategy."
            )
        errors = (logits.reshape(len(labels), -1) - labels.reshape(len(labels), -1)) ** 2
        return RowScores(predictions.ids, -errors.mean(axis=1), np.ones(len(labels)))
    finite = np.isfinite(logits).all(axis=-1)
    right = (logits.argmax(axis=-1) == labels) & finite
    if labels.ndim == 1:
        return RowScores(predictions.ids, right.astype(np.float64), np.ones(len(labels)), labels)
    counted = labels != -100
    tokens = counted.sum(axis=1)
    shares = (right & counted).sum(axis=1) / np.maximum(tokens, 1)
    return RowScores(predictions.ids, shares, tokens.astype(np.float64))
