"""Logistic regression by scikit-learn, along a path of regularisation strengths."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from transformers.utils import logging

from hf_transfer.features.probes.training import Candidate, Fitted, Training, choose, held_out_score


logger = logging.get_logger(__name__)

_ITERATIONS = 5000
_LARGE = 5e7  # products a step from which float32 saves more time than its rounding costs: half of 20 s

__all__ = ["fit_logistic"]


def fit_logistic(training: Training, strengths: Sequence[float]) -> Fitted:
    r"""
    Weights and biases that minimise

    $$ \frac{1}{2} \lVert W \rVert^2 + C \sum_i -\log \operatorname{softmax}(W x_i + b)_{y_i} $$

    for the $C$ of `strengths` that predicts held-out rows best. Two classes have the logits $\mp z / 2$ of one
    regression; several labels have a regression each, all with one $C$.

    Degenerate batches:
        A class without rows gets zero weights and the smallest bias; a label that all or no rows have zero weights and
        the log odds of its count plus one half.
    """
    strengths = sorted(strengths)
    solvers: dict[Candidate, list[Any]] = {}
    chosen, scores = choose(_judged(training, strengths, solvers), strengths)
    # from the solution of a fold it is a short way to that of all rows
    start = solvers.get(chosen)
    inputs = training.inputs[training.own]
    if inputs.size * training.classes < _LARGE:
        inputs = inputs.astype(np.float64)
    problems = _problems(training, np.arange(training.rows))
    fits = [
        None if len(np.unique(labels)) < 2 else _fit(inputs, labels, float(chosen), training, at, 1e-5)
        for labels, at in zip(problems, start or [None] * len(problems), strict=True)
    ]
    if any(fit is not None and max(fit.n_iter_) >= _ITERATIONS for fit in fits):
        logger.warning(f"The logistic regression of strength {chosen:g} has not converged in {_ITERATIONS} steps.")
    weight, bias = _linear(training, problems, fits)
    return Fitted({"weight": weight, "bias": bias}, chosen, scores)


def _judged(
    training: Training, strengths: Sequence[float], solvers: dict[Candidate, list[Any]]
) -> Iterator[tuple[Candidate, tuple[float, float]]]:
    for train, held in training.splits() if len(strengths) > 1 else []:
        inputs, held_inputs = training.inputs[train], training.inputs[held]
        problems = _problems(training, train)
        fits: list[Any] = [None] * len(problems)
        for strength in strengths:  # from the strongest regularisation on, each starts where the last one ended
            fits = [
                None if len(np.unique(labels)) < 2 else _fit(inputs, labels, strength, training, fit, 1e-4)
                for labels, fit in zip(problems, fits, strict=True)
            ]
            solvers[strength] = fits
            weight, bias = _linear(training, problems, fits)
            logits = held_inputs @ weight.T.astype(np.float32) + bias
            yield strength, held_out_score(logits.astype(np.float64), training.targets[held], training.labels)


def _problems(training: Training, rows: np.ndarray) -> list[np.ndarray]:
    targets = training.targets[rows]
    return [targets] if training.labels == "classes" else list(targets.T.astype(np.int64))


def _fit(inputs: np.ndarray, labels: np.ndarray, strength: float, training: Training, start: Any, tol: float) -> Any:
    """Fitted to `tol` of the gradient of the mean loss."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    solver = LogisticRegression(
        C=strength, fit_intercept=training.intercept, max_iter=_ITERATIONS, tol=tol, warm_start=True
    )
    if start is not None and np.array_equal(start.classes_, np.unique(labels)):
        solver.coef_, solver.intercept_ = start.coef_.astype(inputs.dtype), start.intercept_.astype(inputs.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return solver.fit(inputs, labels)


def _linear(training: Training, problems: Sequence[np.ndarray], fits: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Weights `(C, D)` and biases `(C,)` of all classes, from one regression or one for each label."""
    weight, bias = np.zeros((training.classes, training.inputs.shape[1])), np.zeros(training.classes)
    if training.labels == "several":
        for number, (labels, fit) in enumerate(zip(problems, fits, strict=True)):
            if fit is not None:
                weight[number], bias[number] = fit.coef_[0], np.ravel(fit.intercept_)[0]
            elif training.intercept:
                bias[number] = np.log((labels.sum() + 0.5) / (len(labels) - labels.sum() + 0.5))
        return weight, bias
    (fit,) = fits
    rows, intercept = fit.coef_.astype(np.float64), np.ravel(fit.intercept_).astype(np.float64)
    if len(fit.classes_) == 2:  # one row of differences: half of it for each class
        intercept = np.concatenate([-intercept, intercept]) / 2 if training.intercept else np.zeros(2)
        rows = np.concatenate([-rows, rows]) / 2
    weight[fit.classes_] = rows
    if training.intercept:
        bias[:] = intercept.min()
        bias[fit.classes_] = intercept
    return weight, bias
