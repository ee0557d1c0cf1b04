"""Baselines that look at labels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hf_transfer.compare.cells import TEST, VALIDATION
from hf_transfer.compare.strategies.strategy import Fitted, Strategy


if TYPE_CHECKING:
    from hf_transfer.compare.problem.setup import Setup

__all__ = ["Majority", "class_log_frequencies"]


@dataclass(frozen=True, kw_only=True)
class Majority(Strategy):
    r"""
    Always answer what is most frequent among the training rows: what can be had without looking at an input.

    The logits of every row are $\log (n_c / n)$ with $n_c$ of $n$ labelled training rows (tokens) in class $c$; for a
    regression it is the mean label.

    Degenerate:
        A class without a row counts as half a row, so that its logit is finite. Of equally frequent classes the first
        wins.

    Example:
        >>> Majority(name="majority", baseline=True).label
        'majority'
    """

    def fit(self, setup: Setup) -> Fitted:
        """Count the labels; no model is run or saved."""
        answer = self._answer(setup)
        logits = {}
        for split in (VALIDATION, TEST):
            if getattr(setup, split) is not None:
                shape = np.shape(setup.labels(split))
                logits[split] = np.broadcast_to(answer, (*shape, len(answer))).copy()
        names, best = setup.problem.label_names, int(answer.argmax())
        said = f"{answer[0]:.4g}" if setup.problem.regression else f"`{names[best]}`" if names else str(best)
        return Fitted(None, logits=logits, note=f"always {said}")

    def _answer(self, setup: Setup) -> np.ndarray:
        labels = _flat(setup.train_labels)
        if setup.problem.regression:
            return labels.astype(np.float64).mean(keepdims=True).astype(np.float32)
        return class_log_frequencies(labels, len(setup.problem.label_names))


def class_log_frequencies(labels: np.ndarray, classes: int) -> np.ndarray:
    """
    Logarithms of the shares of the classes, `(C,)` float32.

    Args:
        labels (`np.ndarray`): class numbers, `(N,)`; -100 does not count.
        classes (`int`): how many there are.

    Example:
        >>> np.exp(class_log_frequencies(np.array([0, 0, 1, -100, 2]), 3)).tolist()
        [0.5, 0.25, 0.25]
    """
    counts = np.bincount(labels[labels >= 0], minlength=classes)[:classes].astype(np.float64)
    return np.log(np.maximum(counts, 0.5) / max(counts.sum(), 1)).astype(np.float32)


def _flat(labels: np.ndarray) -> np.ndarray:
    """Labels of tokens one after the other, also where rows are of several lengths."""
    labels = np.asarray(labels)
    return np.concatenate([np.asarray(row) for row in labels]) if labels.dtype == object else labels.reshape(-1)
