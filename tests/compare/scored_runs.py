"""Runs whose rows are right or wrong by plan, without a model."""

from __future__ import annotations

import numpy as np

from hf_transfer.compare.judging.row_scores import RowScores
from tests.functional.test_bootstrap import simulated


def run(scores, *, ids=None, weights=None, labels=None):
    scores = np.asarray(scores, dtype=np.float64)
    ids = np.arange(len(scores)) if ids is None else np.asarray(ids)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    return RowScores(ids, scores, weights, None if labels is None else np.asarray(labels))


def right(share, rows=200, *, shift=0, **more):
    """A run that gets a share of the rows right, from row `shift` on, around the end."""
    scores = np.zeros(rows)
    scores[(np.arange(round(share * rows)) + shift) % rows] = 1
    return run(scores, **more)


def planned(shares, *, seeds=1, rows=200, model="m"):
    """Strategies that get shares of the same rows right, by name, the same with every seed."""
    return {(model, name): {s: right(share, rows) for s in range(seeds)} for name, share in shares.items()}


def drawn(generator, shares, *, seeds, rows, effect=0.0, folds=False):
    """Strategies whose runs have random rows right, with the given accuracies on endless rows and seeds."""
    diffs = np.array(list(shares.values())) - 0.5
    scores, weights, _, _, _ = simulated(generator, diffs, seeds, rows, effect, folds=folds, accuracy=0.5)
    found = {}
    for place, name in enumerate(shares):
        found["m", name] = {}
        for s in range(seeds):
            own = weights[:, place * seeds + s] > 0
            found["m", name][s] = run(scores[own, place * seeds + s], ids=np.flatnonzero(own))
    return found
