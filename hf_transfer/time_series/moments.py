"""Least squares with missing targets, from sums over rows: what a linear head is fitted from in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


__all__ = ["Moments"]


class Moments:
    r"""
    Sums over rows from which a linear map of $F$ inputs to $H$ targets is fitted and scored, for many penalties.

    Rows $a_i$ with weight $s_i$ have targets $t_{ih}$, observed where $m_{ih} = 1$. The map minimises for each $h$

    $$ \sum_i m_{ih} (t_{ih} - s_i (w_h^\top a_i + b_h))^2 + \lambda \bar g\, \lVert w_h \rVert^2 $$

    where $\bar g$ is the mean diagonal of the Gram matrix of the centred inputs, which makes $\lambda$ dimensionless.
    Sums are in float64. Memory is $F^2 + F H$ numbers, and $F$ for each row of which some but not all targets were
    observed: the Gram matrix of each pattern of missing targets is that of all rows less the ones without it, exact.

    Args:
        width (`int`): inputs $F$.
        targets (`int`): targets $H$.

    Degenerate cases:
        Directions in which the inputs do not vary get no weight, also without penalty: the solution of least norm. A
        target that was never observed has the map 0.

    Example:
        >>> moments = Moments(1, 1)
        >>> moments.add(np.array([[0.0], [1.0], [2.0]]), np.ones(3), np.array([[1.0], [3.0], [np.nan]]))
        >>> [[round(float(value), 6) for value in row] for row in moments.fit([0.0])[0]]
        [[2.0], [1.0]]
    """

    def __init__(self, width: int, targets: int):
        self.width, self.targets = width, targets
        self._whole = np.zeros((width + 1, width + 1))  # Gram matrix of the rows with all targets
        self._cross = np.zeros((width + 1, targets))
        self._squares = np.zeros(targets)
        self._counts = np.zeros(targets, dtype=np.int64)
        self._parts: list[np.ndarray] = []
        self._masks: list[np.ndarray] = []

    @property
    def count(self) -> int:
        """Number of observed targets."""
        return int(self._counts.sum())

    def add(self, inputs: np.ndarray, weights: np.ndarray, targets: np.ndarray) -> None:
        """
        Count rows in.

        Args:
            inputs (`np.ndarray`): `(N, F)` $a_i$.
            weights (`np.ndarray`): `(N,)` $s_i$.
            targets (`np.ndarray`): `(N, H)` $t_i$, NaN where missing.
        """
        observed = ~np.isnan(targets)
        seen = observed.any(1)
        observed, weights = observed[seen], np.asarray(weights, dtype=np.float64)[seen, None]
        rows = np.concatenate([inputs[seen].astype(np.float64) * weights, weights], axis=1)
        wanted = np.where(observed, targets[seen], 0.0).astype(np.float64)
        whole = observed.all(1)
        complete = rows[whole]
        self._whole += complete.T @ complete
        if not whole.all():
            self._parts.append(rows[~whole])
            self._masks.append(observed[~whole])
        self._cross += rows.T @ wanted
        self._squares += np.square(wanted).sum(0)
        self._counts += observed.sum(0)

    def fit(self, penalties: Sequence[float]) -> np.ndarray:
        """The maps `(P, F + 1, H)`, the constant last, for each penalty $\\lambda$."""
        solved = np.zeros((len(penalties), self.width + 1, self.targets))
        for gram, columns in self._patterns():
            if gram[-1, -1] <= 0:
                continue
            mean = gram[:-1, -1] / gram[-1, -1]  # of the inputs, weighted: the constant is free of the penalty
            centred = gram[:-1, :-1] - np.outer(mean, gram[-1, :-1])
            cross = self._cross[:, columns]
            values, vectors = np.linalg.eigh((centred + centred.T) / 2)
            turned = vectors.T @ (cross[:-1] - np.outer(mean, cross[-1]))
            scale = np.trace(gram[:-1, :-1]) / self.width
            varies = values > 1e-13 * max(np.trace(gram[:-1, :-1]), 1e-300)
            for place, penalty in enumerate(penalties):
                shrunk = np.where(varies, values, 1.0) + penalty * max(values.sum() / self.width, 1e-12 * scale)
                weight = vectors @ (np.where(varies, 1 / shrunk, 0.0)[:, None] * turned)
                solved[place][:-1, columns] = weight
                solved[place][-1, columns] = cross[-1] / gram[-1, -1] - mean @ weight
        return solved

    def errors(self, maps: np.ndarray) -> np.ndarray:
        """Mean squared error over the observed targets of each of the maps `(P, F + 1, H)`: `(P,)`."""
        totals = np.full(len(maps), self._squares.sum())
        for gram, columns in self._patterns():
            for place, weight in enumerate(maps[:, :, columns]):
                totals[place] += np.sum(weight * (gram @ weight - 2 * self._cross[:, columns]))
        return np.maximum(totals, 0.0) / max(self.count, 1)

    def _patterns(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The Gram matrix of the rows that have these targets, and the numbers of the targets."""
        if not self._parts:
            yield self._whole, np.arange(self.targets)
            return
        rows, masks = np.concatenate(self._parts), np.concatenate(self._masks)
        every = self._whole + rows.T @ rows
        groups: dict[bytes, list[int]] = {}
        for target in range(self.targets):
            groups.setdefault(np.packbits(masks[:, target]).tobytes(), []).append(target)
        for columns in groups.values():
            present = masks[:, columns[0]]
            if 2 * present.sum() > len(present):
                lacking = rows[~present]
                yield every - lacking.T @ lacking, np.array(columns)
            else:
                yield self._whole + rows[present].T @ rows[present], np.array(columns)
