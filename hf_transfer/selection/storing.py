"""`results.json` of a ranking: written whole after each candidate, so that an interrupted one goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils import logging

from hf_transfer.files import whole_file
from hf_transfer.selection.outcome import Outcome


logger = logging.get_logger(__name__)

FILE = "results.json"
_FORMAT = "source ranking 1"

__all__ = ["FILE", "Store", "read_results", "write_results"]


class Store:
    """
    The finished candidates of a ranking, in a folder or nowhere.

    Args:
        folder (`str` or path, *optional*): where; None keeps nothing.
        settings (`Mapping[str, Any]`): what all candidates have in common. A file of other settings is set aside as
            `results.previous.json`.
        write (`bool`, *optional*, defaults to `True`): whether this process writes; only one may.

    Raises:
        ValueError: if the folder holds a `results.json` of something else.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, settings: Mapping[str, Any], *, write: bool = True):
        self.path = None if folder is None else Path(folder) / FILE
        self.settings: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        self.write = write
        self.outcomes: dict[str, Outcome] = {}
        if self.path is None or not self.path.is_file():
            return
        stored = read_results(self.path)
        if stored["settings"] == self.settings:
            self.outcomes = {own["name"]: Outcome.from_json(own) for own in stored["outcomes"]}
            return
        logger.warning(
            f"{self.path} is of other rows or settings: its scores would not compare with these. All candidates are "
            "scored anew, and the file is kept as results.previous.json."
        )
        if write:
            self.path.replace(self.path.with_name("results.previous.json"))

    def found(self, name: str, fingerprint: str) -> Outcome | None:
        """The finished scores of a candidate whose weights and processor are the same still."""
        own = self.outcomes.get(name)
        return own if own is not None and own.scored and own.fingerprint == fingerprint else None

    def add(self, outcome: Outcome) -> None:
        """Take a finished candidate, and write all of them down."""
        self.outcomes[outcome.name] = outcome
        if self.path is not None and self.write:
            write_results(self.path, self.settings, list(self.outcomes.values()))


def write_results(path: Path, settings: Mapping[str, Any], outcomes: list[Outcome]) -> None:
    """Write settings and outcomes into a file, whole or not at all."""
    content = {"format": _FORMAT, "settings": settings, "outcomes": [own.to_json() for own in outcomes]}
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content), encoding="utf-8")


def read_results(path: Path) -> dict[str, Any]:
    """
    What [`write_results`] wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of a ranking.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}: no ranking was saved there. Name the folder that `SourceRanking.save` or "
            "`rank_models(..., output_dir=)` wrote into."
        )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is no JSON ({error}): finished candidates cannot be told from it. Remove it, or name another "
            "folder."
        ) from error
    if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
        raise ValueError(
            f"{path} is no file of a ranking: it has another format, and would be overwritten. Name another folder."
        )
    return stored
