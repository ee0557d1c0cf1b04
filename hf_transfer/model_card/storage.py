"""Facts of a run in its folder, for a card that is written later: of a comparison, or over seeds."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_transfer.files import whole_file
from hf_transfer.model_card.facts import Baseline, DataFacts, RunFacts, Score, Term


FILE = "_run_facts.json"
"""Its name begins with an underscore: the `Trainer` leaves such files out of what it pushes."""

__all__ = ["FILE", "load_facts", "save_facts"]


def save_facts(facts: RunFacts, folder: str | os.PathLike[str]) -> Path:
    """
    Write facts into a folder, whole or not at all.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_facts(RunFacts(seeds=[3], scores=[Score("accuracy", 0.5)]), folder)
        ...     load_facts(folder) == RunFacts(seeds=[3], scores=[Score("accuracy", 0.5)])
        True
    """
    path = Path(folder) / FILE
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(asdict(facts), indent=2, default=str), encoding="utf-8")
    return path


def load_facts(folder: str | os.PathLike[str]) -> RunFacts | None:
    """The facts that lie in a folder, or `None`; a file of another version of the library counts as none."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        stored["data"] = [DataFacts(**own) for own in stored["data"]]
        stored["scores"] = [_score(own) for own in stored["scores"]]
        stored["terms"] = [Term(**own) for own in stored["terms"]]
        stored["baselines"] = [
            Baseline(**{**own, "score": _score(own["score"]), "interval": _pair(own["interval"])})
            for own in stored["baselines"]
        ]
        return RunFacts(**stored)
    except (ValueError, TypeError, KeyError):
        return None


def _score(stored: dict[str, Any]) -> Score:
    return Score(**{**stored, "interval": _pair(stored["interval"])})


def _pair(stored: list[float] | None) -> tuple[float, float] | None:
    return None if stored is None else (stored[0], stored[1])
