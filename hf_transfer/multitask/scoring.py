"""How the predictions for a task are scored: its metrics, and what every row adds to a comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.multitask.task import Kind, Task


ROW_METRIC: dict[Kind, str] = {
    "classification": "accuracy",
    "regression": "mse",
    "multi_label": "accuracy",
    "tokens": "accuracy",
}
"""The metric by which a task is compared row by row: a mean over rows, of labels that are right or of errors."""

LESS_IS_BETTER = frozenset({"mse"})

__all__ = ["LESS_IS_BETTER", "ROW_METRIC", "RowScores", "main_metric", "row_scores", "task_metrics"]


@dataclass(frozen=True)
class RowScores:
    """
    What every row of a data set scores for a task; their weighted mean is the score of the task.

    Args:
        scores (`np.ndarray`): `(n,)`, share of labels that are right, or the squared error.
        weights (`np.ndarray`): `(n,)`, how many labels the row has; 0 where it has none.
    """

    scores: np.ndarray
    weights: np.ndarray

    @property
    def mean(self) -> float:
        """The score of the task."""
        return float((self.scores * self.weights).sum() / self.weights.sum())


def main_metric(task: Task) -> str:
    """
    The metric a task is mostly judged by; more is better.

    Example:
        >>> main_metric(Task("stars", "regression"))
        'pearson'
    """
    if task.kind == "regression":
        return "pearson"
    named = task.kind == "tokens" and task.label_names
    return "f1" if named or task.kind == "multi_label" else "accuracy"


def task_metrics(task: Task) -> Callable[[Any], dict[str, float]]:
    """
    The `compute_metrics` of a `Trainer` for a task.

    `accuracy` and `macro_f1` for classes; `mse` and `pearson` for values; for tokens `precision`, `recall` and `f1` of
    entities and the `accuracy` of tags, without names of tags as for classes; for several labels a row `f1` over all
    entries, `macro_f1` over the labels that occur, and the `accuracy` of entries. What has a label of -100 does not
    count.

    Example:
        >>> from transformers import EvalPrediction
        >>> logits, labels = np.array([[1.0, -1.0], [2.0, 3.0]]), np.array([[1, 0], [1, 0]])
        >>> task_metrics(Task("tags", "multi_label", num_labels=2))(EvalPrediction(logits, labels))
        {'f1': 0.8, 'macro_f1': 0.5, 'accuracy': 0.75}
    """
    from hf_transfer.metrics import compute_metrics_for

    if task.kind == "multi_label":
        return _multi_label_metrics
    if task.kind == "regression":
        return compute_metrics_for("regression")
    if task.kind == "tokens" and task.label_names:
        return compute_metrics_for("token-classification", task.label_names)
    return compute_metrics_for("text-classification")


def row_scores(task: Task, logits: np.ndarray, labels: np.ndarray) -> RowScores:
    """
    What every row scores: the share of its labels that are right, or the mean of its squared errors.

    Shape:
        - `logits`: `(n, C)`; `(n, T, C)` for tokens.
        - `labels`: `(n,)`, `(n, C)` or `(n, T)`, -100 where there is none.

    Example:
        >>> found = row_scores(Task("topic", num_labels=2), np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1]))
        >>> found.scores.tolist(), found.mean
        ([1.0, 0.0], 0.5)
    """
    if task.kind == "regression":
        values = (logits.reshape(len(logits), -1) - labels.reshape(len(labels), -1)) ** 2
    elif task.kind == "multi_label":
        values = (logits > 0) == (labels == 1)
    else:
        values = logits.argmax(-1) == labels
    counted = (labels != UNLABELLED).reshape(len(labels), -1)
    values = np.where(counted, values.reshape(len(labels), -1), 0).astype(np.float64)
    weights = counted.sum(1).astype(np.float64)
    return RowScores(values.sum(1) / np.maximum(weights, 1), weights)


def _multi_label_metrics(outputs: Any) -> dict[str, float]:
    logits, labels = (
        np.asarray(array[0] if isinstance(array, tuple | list) else array)
        for array in (outputs.predictions, outputs.label_ids)
    )
    counted = labels != UNLABELLED
    if not counted.any():
        raise ValueError(
            f"None of the {len(labels)} rows has a label (all are {UNLABELLED}): nothing can be scored. Evaluate the "
            "task on rows of its own."
        )
    predicted, wanted = (logits > 0) & counted, (labels == 1) & counted
    right = (predicted & wanted).sum(0)
    either = predicted.sum(0) + wanted.sum(0)
    occurs = either > 0
    return {
        "f1": float(2 * right.sum() / max(either.sum(), 1)),
        "macro_f1": float((2 * right[occurs] / either[occurs]).mean()) if occurs.any() else 0.0,
        "accuracy": float(((predicted == wanted) & counted).sum() / counted.sum()),
    }
