"""Scores of predictions, computed as the metrics of `hf_transfer.metrics` are."""

from __future__ import annotations

import numpy as np


__all__ = ["scores_of"]


def scores_of(task: str, predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """
    Scores of labelled rows by name.

    Args:
        task (`str`): `single_label`, `token`, `multi_label` or `regression`.
        predictions (`np.ndarray`): classes `(N,)`, 0 and 1 `(N, C)`, or values `(N, K)`.
        targets (`np.ndarray`): what is right, in the same shape.

    Degenerate batches:
        `r2` and `pearson` are 0 where the targets do not vary.

    Example:
        >>> scores_of("single_label", np.array([0, 1, 1]), np.array([0, 1, 0]))["accuracy"]
        0.6666666666666666
    """
    from sklearn.metrics import f1_score

    if task == "regression":
        return _regression(predictions, targets)
    # the stub of scikit-learn 1.9 wants a string for zero_division, its documentation a number
    average = "micro" if task == "multi_label" else "macro"
    f1 = float(f1_score(targets, predictions, average=average, zero_division=0))  # pyright: ignore[reportArgumentType]
    if task == "multi_label":
        return {"micro_f1": f1, "exact_match": float((predictions == targets).all(1).mean())}
    return {"accuracy": float((predictions == targets).mean()), "macro_f1": f1}


def _regression(predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    errors = predictions - targets
    spread = ((targets - targets.mean(0)) ** 2).sum(0)
    explained = np.where(spread > 0, 1 - (errors**2).sum(0) / np.where(spread > 0, spread, 1.0), 0.0)
    found = {
        "mse": float((errors**2).mean()),
        "mae": float(np.abs(errors).mean()),
        "r2": float(explained.mean()),
    }
    if targets.shape[1] == 1:
        guess, wanted = predictions[:, 0] - predictions.mean(), targets[:, 0] - targets.mean()
        scale = float(np.linalg.norm(guess) * np.linalg.norm(wanted))
        found["pearson"] = float(guess @ wanted) / scale if scale else 0.0
    return found
