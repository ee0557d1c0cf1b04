"""Ridge regression in closed form: one decomposition for all strengths, and each row left out at no cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hf_transfer.features.probes.training import Candidate, Fitted, Training, choose, held_out_score


RIDGE_STRENGTHS = tuple(float(10.0**power) for power in np.arange(-6, 2.5, 0.5))
"""Inverse penalties that are tried for a ridge regression on standardised features."""

__all__ = ["RIDGE_STRENGTHS", "fit_ridge"]


def fit_ridge(training: Training, strengths: Sequence[float]) -> Fitted:
    r"""
    Weights and biases that minimise $\lVert W X + b - Y \rVert^2 + \lVert W \rVert^2 / c$ for the best $c$ of
    `strengths`; $Y$ is 1 and -1 for classes.

    With $X = U S V^\top$ of the centred rows, $W = Y^\top U \, S / (S^2 + 1/c) \, V^\top$, and the prediction for row
    $i$ of a fit without it is $y_i - (y_i - \hat y_i) / (1 - h_i)$ with $h_i = 1/N + \sum_j U_{ij}^2 S_j^2 / (S_j^2 +
    1/c)$.
    """
    strengths = sorted(strengths)
    table = training.table()
    judged = _left_out if training.leaves_one_out else _held_out
    chosen, scores = choose(judged(training, table, strengths) if len(strengths) > 1 else (), strengths)
    weight, bias = _Path.of(training, np.arange(training.rows), table).at(float(chosen))
    return Fitted({"weight": weight, "bias": bias}, chosen, scores)


@dataclass(frozen=True)
class _Path:
    """The decomposed rows: right singular vectors `(D, R)`, squared singular values `(R,)`, `V' X' Y` `(R, K)`."""

    vectors: np.ndarray
    squares: np.ndarray
    moments: np.ndarray
    mean: np.ndarray
    target: np.ndarray
    inputs: np.ndarray

    @classmethod
    def of(cls, training: Training, rows: np.ndarray, table: np.ndarray) -> _Path:
        inputs, targets = training.inputs[rows].astype(np.float64), table[rows]
        mean, target = np.zeros(inputs.shape[1]), np.zeros(targets.shape[1])
        if training.intercept:
            mean, target = inputs.mean(0), targets.mean(0)
            inputs, targets = inputs - mean, targets - target
        if len(inputs) >= inputs.shape[1]:
            squares, vectors = np.linalg.eigh(inputs.T @ inputs)
        else:  # the smaller of the two matrices of products
            squares, left = np.linalg.eigh(inputs @ inputs.T)
            kept = squares > 1e-12 * max(squares.max(initial=0.0), 1e-300)
            squares = squares[kept]
            vectors = inputs.T @ left[:, kept] / np.sqrt(squares)
        squares = np.maximum(squares, 0.0)
        return cls(vectors, squares, vectors.T @ (inputs.T @ targets), mean, target, inputs)

    def at(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        weight = (self.vectors @ (self.moments / (self.squares + 1 / strength)[:, None])).T
        return weight, self.target - weight @ self.mean


def _held_out(
    training: Training, table: np.ndarray, strengths: Sequence[float]
) -> Iterator[tuple[Candidate, tuple[float, float]]]:
    for train, held in training.splits():
        path = _Path.of(training, train, table)
        inputs = training.inputs[held].astype(np.float64)
        for strength in strengths:
            weight, bias = path.at(strength)
            yield strength, _score(training, inputs @ weight.T + bias, table[held], training.targets[held])


def _left_out(
    training: Training, table: np.ndarray, strengths: Sequence[float]
) -> Iterator[tuple[Candidate, tuple[float, float]]]:
    table = table[training.own]
    path = _Path.of(training, np.arange(training.rows), table)
    projected = path.inputs @ path.vectors
    for strength in strengths:
        shrunk = 1 / (path.squares + 1 / strength)
        guess = projected @ (path.moments * shrunk[:, None]) + path.target
        leverage = (projected**2) @ shrunk + (1 / len(table) if training.intercept else 0.0)
        # a row that its own fit reproduces whatever its value is not predicted by the others
        without = table - (table - guess) / np.maximum(1 - leverage, 1e-12)[:, None]
        yield strength, _score(training, without, table, training.targets[training.own])


def _score(training: Training, guess: np.ndarray, table: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Of equals the lower squared error wins: least squares is no model of probabilities."""
    return held_out_score(guess, targets, training.labels)[0], float(((guess - table) ** 2).mean())
