"""Outcomes without any model: rows that are right with a given probability, and scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_transfer.compare.judging.row_scores import RowScores
from hf_transfer.selection import SourceRanking
from hf_transfer.selection.costs import Cost
from hf_transfer.selection.outcome import Outcome
from hf_transfer.selection.scores import Score


ROWS = 400


def outcome(name: str, share: float, *, size: int = 1000, seed: int = 0, **scores: float | None) -> Outcome:
    """The first rows of a common random order are right, so that outcomes differ in few rows."""
    order = np.random.default_rng(seed).permutation(ROWS)
    right = np.zeros(ROWS)
    right[order[: int(share * ROWS)]] = 1.0
    rows = RowScores(np.arange(ROWS), right, np.ones(ROWS))
    values: dict[str, Score] = {"probe": Score(rows.mean), "knn": Score(rows.mean)}
    values |= {own: Score(value, reason="" if value is not None else "none") for own, value in scores.items()}
    return Outcome(name, "f", scores=values, rows={"probe": rows, "knn": rows}, cost=Cost(size, 16 * size), width=4)


def ranking(*outcomes: Outcome, by: str = "probe", scores: tuple[str, ...] = ("probe", "knn"), **more: Any):
    """A ranking of outcomes that are made."""
    settings: Mapping[str, Any] = {
        "task": "image-classification",
        "kind": "single_label",
        "metric": "accuracy",
        "rows": ROWS,
        "available": ROWS,
        "scores": list(scores),
        "by": by,
        "layers": "head",
        "probe": "ridge",
        "folds": 5,
        "parts": [320] * 20,
        "epochs": 3.0,
        "seed": 0,
        **more,
    }
    return SourceRanking(outcomes, settings, by)
