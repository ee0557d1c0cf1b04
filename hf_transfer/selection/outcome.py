"""What ranking found out about one candidate, in a form that a JSON file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hf_transfer.compare.judging.row_scores import RowScores
from hf_transfer.selection.costs import Cost
from hf_transfer.selection.scores import Score


__all__ = ["Outcome"]


@dataclass(frozen=True)
class Outcome:
    """
    A candidate, or a baseline.

    Args:
        name (`str`): as it was given.
        fingerprint (`str`): of its weights and processor.
        reason (`str`, *optional*): why it has no scores; empty where it has.
        scores (`Mapping[str, Score]`): by name.
        rows (`Mapping[str, RowScores]`): of `probe` and `knn`, example by example.
        cost (`Cost`, *optional*): estimated.
        width (`int`, *optional*): of its features.
        layer (`str`, *optional*): what they are of: `features` for the input of the head, `mean`, `block.3`.
        seconds (`Mapping[str, float]`): of the pass over the rows, and of all scores.
        notes (`tuple[str, ...]`): what is to be told.
    """

    name: str
    fingerprint: str = ""
    reason: str = ""
    scores: Mapping[str, Score] = field(default_factory=dict)
    rows: Mapping[str, RowScores] = field(default_factory=dict, repr=False)
    cost: Cost | None = None
    width: int | None = None
    layer: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def scored(self) -> bool:
        """Whether it has scores."""
        return not self.reason

    def value(self, score: str) -> float | None:
        """One of its scores; None where it is not defined."""
        own = self.scores.get(score)
        return None if own is None else own.value

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and names."""
        found = asdict(self)
        found["rows"] = {name: _listed(rows) for name, rows in self.rows.items()}
        return found

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Outcome:
        """The same again."""
        scores = {name: _score(own) for name, own in stored["scores"].items()}
        rows = {name: _rows(own) for name, own in stored["rows"].items()}
        cost = None if stored["cost"] is None else Cost(**stored["cost"])
        return cls(**{**stored, "scores": scores, "rows": rows, "cost": cost, "notes": tuple(stored["notes"])})


def _score(stored: Mapping[str, Any]) -> Score:
    terms, drawn = stored.get("terms"), stored.get("drawn_terms", ())
    return Score(
        **{
            **stored,
            "draws": tuple(stored["draws"]),
            "terms": None if terms is None else tuple(terms),
            "drawn_terms": tuple(None if own is None else tuple(own) for own in drawn),
        }
    )


def _listed(rows: RowScores) -> dict[str, Any]:
    labels = None if rows.labels is None else rows.labels.tolist()
    return {
        "ids": rows.ids.tolist(),
        "scores": rows.scores.tolist(),
        "weights": rows.weights.tolist(),
        "labels": labels,
    }


def _rows(stored: Mapping[str, Any]) -> RowScores:
    labels = None if stored["labels"] is None else np.array(stored["labels"], dtype=np.int64)
    return RowScores(
        np.array(stored["ids"], dtype=np.int64), np.array(stored["scores"]), np.array(stored["weights"]), labels
    )
