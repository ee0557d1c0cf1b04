"""Finished runs on disk: `results.json`, written whole after each, so that an interrupted comparison goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import logging

from hf_transfer.files import whole_file


logger = logging.get_logger(__name__)

FILE = "results.json"

__all__ = ["FILE", "Cell", "Results", "fingerprint"]


@dataclass(frozen=True)
class Cell:
    """
    What one run came to.

    Args:
        method (`str`): name of the method.
        seed (`int`): its seed.
        fingerprint (`str`): of everything that the run depends on.
        folder (`str`): of its model, below the output folder.
        scores (`Mapping[str, float | None]`): final scores by name, such as `target_accuracy`.
        validators (`Mapping[str, float | None]`): scores without target labels by validator.
        diagnostics (`Mapping[str, float | None]`): distances of the domains and the like.
    """

    method: str
    seed: int
    fingerprint: str
    folder: str
    scores: Mapping[str, float | None] = field(default_factory=dict)
    validators: Mapping[str, float | None] = field(default_factory=dict)
    diagnostics: Mapping[str, float | None] = field(default_factory=dict)


def fingerprint(settings: Mapping[str, Any]) -> str:
    """
    A short digest of settings.

    Example:
        >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 2})
        True
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Results:
    """
    The finished runs of a comparison in `results.json` of a folder.

    Args:
        folder (`str` or path):
            The output folder.
        settings (`Mapping[str, Any]`):
            What all runs have in common. A file of other settings is set aside as `results.previous.json`.
        write (`bool`, *optional*, defaults to `True`):
            Whether this process writes; only one may.
        resume (`bool`, *optional*, defaults to `True`):
            Whether finished runs of the same settings count.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Results(folder, {"steps": 9}).add(Cell("dann", 0, "f", "dann/seed_0", {"target_accuracy": 0.5}))
        ...     Results(folder, {"steps": 9}).found("dann", 0).scores
        ...     Results(folder, {"steps": 8}).found("dann", 0)
        {'target_accuracy': 0.5}
    """

    def __init__(
        self, folder: str | Path, settings: Mapping[str, Any], *, write: bool = True, resume: bool = True
    ) -> None:
        self.path = Path(folder) / FILE
        self.settings = json.loads(json.dumps(settings, default=str))
        self.write = write
        self.cells: dict[tuple[str, int], Cell] = {}
        stored = _read(self.path)
        if stored is None:
            return
        changed = _changed(stored.get("settings", {}), self.settings)
        if resume and not changed:
            self.cells = {(cell["method"], cell["seed"]): Cell(**cell) for cell in stored["runs"]}
            return
        if changed and resume:
            logger.warning(
                f"{self.path} holds runs of other settings ({', '.join(changed)}): they would stand in one table with "
                "these. All runs start anew, and the file is kept as results.previous.json."
            )
        if write:
            self.path.replace(self.path.with_name("results.previous.json"))

    def found(self, method: str, seed: int, fingerprint: str | None = None) -> Cell | None:
        """The finished run of a method and a seed, if there is one of that fingerprint whose model is there still."""
        cell = self.cells.get((method, seed))
        if cell is None or fingerprint is None:
            return cell
        there = (self.path.parent / cell.folder / "config.json").is_file()
        return cell if cell.fingerprint == fingerprint and there else None

    def add(self, cell: Cell) -> None:
        """Take a finished run, and write all of them down."""
        self.cells[cell.method, cell.seed] = cell
        if not self.write:
            return
        content = {"settings": self.settings, "runs": [asdict(cell) for cell in self.cells.values()]}
        with whole_file(self.path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is no JSON ({error}): finished runs cannot be told from it. Remove the file, or name another "
            "`--output_dir`."
        ) from error
    if not isinstance(stored, dict) or "runs" not in stored:
        raise ValueError(
            f"{path} is no results file of this recipe: it has no `runs`, and would be overwritten. Name another "
            "`--output_dir`."
        )
    return stored


def _changed(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = sorted({*stored, *now})
    return [
        f"{name} {stored.get(name)} and now {now.get(name)}" for name in names if stored.get(name) != now.get(name)
    ]
