"""Findings of a comparison as plain values for JSON, and back."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from hf_transfer.compare.answer import (
    Answer,
    ClassVerdict,
    CurvePoint,
    Difference,
    Estimate,
    Outlook,
    Recommendation,
    TableRow,
    Verdict,
)
from hf_transfer.compare.cells import Costs
from hf_transfer.model_card.naming import public_name, scrubbed


__all__ = ["answer_of", "plain"]


def plain(value: Any) -> Any:
    """
    A value as JSON knows it: dataclasses as mappings, arrays as lists, what is not finite as `None`. Tokens and the
    folders of the user are taken out of texts.

    Example:
        >>> plain({"costs": Costs(1.5), "loss": math.nan, "rows": np.arange(2)})["rows"]
        [0, 1]
        >>> plain([math.inf, np.float32(0.5), (1, "x")])
        [None, 0.5, [1, 'x']]
    """
    if value is None or isinstance(value, (bool, np.bool_)):
        return None if value is None else bool(value)
    if isinstance(value, str):
        return value if value.startswith("data:") else scrubbed(value)  # pictures are long, and hold none
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {own.name: plain(getattr(value, own.name)) for own in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(own) for key, own in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        values = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [plain(own) for own in values]
    if isinstance(value, os.PathLike):
        return public_name(value)[0]
    return scrubbed(str(value))


def answer_of(stored: Mapping[str, Any]) -> Answer:
    """
    The answer of which [`plain`] made `stored`.

    Example:
        >>> answer = Answer([], None, Verdict("undecided", "?", Difference(0.1, -0.1, 0.3)))
        >>> answer_of(plain(answer)) == answer
        True
    """
    chosen, verdict, outlook = stored["recommendation"], stored["verdict"], stored["outlook"]
    if chosen is not None:
        pairs = [(model, strategy) for model, strategy in chosen["tied"]]
        chosen = Recommendation(**{**chosen, "leader": tuple(chosen["leader"]), "tied": pairs})
    return Answer(
        rows=[_row(row) for row in stored["rows"]],
        recommendation=chosen,
        verdict=Verdict(
            **{
                **verdict,
                "against_scratch": _made(Difference, verdict["against_scratch"]),
                "against_majority": _made(Difference, verdict["against_majority"]),
                "classes": [
                    ClassVerdict(**{**own, "difference": Difference(**own["difference"])})
                    for own in verdict["classes"]
                ],
            }
        ),
        curve=tuple(CurvePoint(**{**point, "score": Estimate(**point["score"])}) for point in stored["curve"]),
        outlook=_made(Outlook, outlook),
    )


def _row(stored: Mapping[str, Any]) -> TableRow:
    parts = {"validation": Estimate, "test": Estimate, "against_best": Difference, "against_scratch": Difference}
    made = {name: _made(kind, stored[name]) for name, kind in parts.items()}
    return TableRow(**{**stored, **made, "costs": Costs(**stored["costs"])})


def _made(kind: Any, stored: Mapping[str, Any] | None) -> Any:
    return None if stored is None else kind(**stored)
