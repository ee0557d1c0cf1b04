"""Runs of a comparison on disk: a folder for each, whose `cell.json` is written when all else is there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from hf_transfer.compare.cells import FAILED, SKIPPED, TEST, VALIDATION, CellKey, CellResult, Predictions
from hf_transfer.files import whole_file


CELL, SETTINGS, ERROR, MODEL = "cell.json", "comparison.json", "error.txt", "model"
_ASIDE = f".{MODEL}.dropped"
# what tells that a folder is the output of something else
_FOREIGN = ("results.json", "all_results.json", "config.json", "adapter_config.json", "cells")

__all__ = ["CELL", "ERROR", "MODEL", "SETTINGS", "CellStore"]


class CellStore:
    """
    The runs of a comparison below its output folder.

    `cell.json` of a run is written last and whole, so that a process killed at any moment leaves a run either finished
    or to be run anew.

    Args:
        folder (`str` or path):
            The output folder.
        settings (`Mapping[str, Any]`):
            What all runs have in common and depend on. What JSON does not know is taken as text.
        resume (`bool`, *optional*, defaults to `True`):
            Whether finished runs of the same settings count. If not, [`CellStore.check_settings`] sets them aside.
        retry_failed (`bool`, *optional*, defaults to `False`):
            Whether runs that failed are to be run anew; those skipped for want of time always are.

    Example:
        >>> import tempfile
        >>> key = CellKey("m", "full", 0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = CellStore(folder, {"steps": 9})
        ...     store.check_settings()
        ...     store.add(CellResult(key, "f", scores={"validation_accuracy": 0.5}))
        ...     store.find(key, "f").scores, store.find(key, "g")
        ({'validation_accuracy': 0.5}, None)
    """

    def __init__(
        self, folder: str | Path, settings: Mapping[str, Any], resume: bool = True, *, retry_failed: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps(settings, default=str))
        self.resume, self.retry_failed = resume, retry_failed

    def check_settings(self, *, write: bool = True) -> None:
        """
        Refuse a folder that holds something else; take one that is free.

        Args:
            write (`bool`, *optional*, defaults to `True`): whether to write the settings down, and with `resume=False`
                to move earlier runs to `cells.previous`; only one process may.

        Raises:
            ValueError: if the folder is that of another comparison or of another recipe. Nothing in it is changed.
        """
        path = self.folder / SETTINGS
        stored = _settings(path)
        if stored is None:
            there = [name for name in _FOREIGN if (self.folder / name).exists()]
            if there:
                raise ValueError(
                    f"{self.folder} holds {', '.join(f'`{name}`' for name in there)} but no `{SETTINGS}`: it is the "
                    "output of something else, which a comparison would overwrite. Name another `--output_dir`."
                )
        elif changed := _changed(stored, self.settings):
            raise ValueError(
                f"{self.folder} holds a comparison of other settings ({'; '.join(changed)}): its runs would stand in "
                "one table with these. Name another `--output_dir`, or give the settings that it was started with."
            )
        if not write:
            return
        if not self.resume and (self.folder / "cells").exists():
            os.rename(self.folder / "cells", _free(self.folder / "cells.previous"))
        if stored is None:
            with whole_file(path) as unfinished:
                unfinished.write_text(json.dumps({"settings": self.settings}, indent=2), encoding="utf-8")

    def place(self, key: CellKey) -> Path:
        """
        The folder of a run.

        Raises:
            ValueError: if the names lead out of the output folder, or to the folder of another run.
        """
        place = self.folder / key.folder
        if ".." in place.relative_to(self.folder).parts or not place.resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(
                f"The run {key.model!r}, {key.strategy!r} would be written to {key.folder}, outside of the output "
                "folder. Name the strategy with letters, digits, `_` and `-`."
            )
        stored = _cell(place)
        if stored is not None and _apart(stored.key, key):
            raise ValueError(
                f"{key.folder} is the folder of {stored.key.model!r}, {stored.key.strategy!r} and would be that of "
                f"{key.model!r}, {key.strategy!r}: one would overwrite the other. Give the models and strategies "
                "labels that differ in letters or digits."
            )
        return place

    def find(self, key: CellKey, fingerprint: str) -> CellResult | None:
        """The run, if it need not be run again: finished or failed, of the same fingerprint, with its predictions."""
        stored = _cell(self.place(key))
        if stored is None or stored.fingerprint != fingerprint or stored.status == SKIPPED:
            return None
        if stored.status == FAILED:
            return None if self.retry_failed else stored
        return stored

    def cells(self) -> list[CellResult]:
        """All runs that are written down, sorted by their keys."""
        found = [_cell(path.parent) for path in (self.folder / "cells").glob(f"**/{CELL}")]
        return sorted((cell for cell in found if cell is not None), key=lambda cell: cell.key)

    def add(self, result: CellResult, predictions: Mapping[str, Predictions] | None = None) -> None:
        """
        Write a run down. Its model, if any, must be there already.

        Args:
            result (`CellResult`): what it came to.
            predictions (`Mapping[str, Predictions]`, *optional*): by `validation` and `test`.
        """
        place = self.place(result.key)
        place.mkdir(parents=True, exist_ok=True)
        for split, own in (predictions or {}).items():
            with whole_file(place / _predictions(split)) as unfinished:
                save_file({name: np.ascontiguousarray(value) for name, value in vars(own).items()}, unfinished)
        text = json.dumps({**result.to_json(), "predictions": sorted(predictions or {})}, indent=2)
        with whole_file(place / CELL) as unfinished:
            unfinished.write_text(text, encoding="utf-8")

    def predictions(self, key: CellKey, split: str) -> Predictions | None:
        """What a finished run says of the rows of `validation` or `test`; `None` if there are no such rows."""
        place = self.place(key)
        stored = _cell(place)
        if stored is None or not stored.finished or not (place / _predictions(split)).is_file():
            return None
        return Predictions(**load_file(place / _predictions(split)))

    def model_folder(self, key: CellKey) -> Path | None:
        """Where the model of a finished run lies; `None` if it was dropped or never was one."""
        place = self.place(key)
        stored = _cell(place)
        return place / MODEL if stored is not None and stored.finished and (place / MODEL).is_dir() else None

    def drop_model(self, key: CellKey) -> None:
        """Remove the model of a run, which keeps its scores and predictions."""
        place = self.place(key)
        if (place / MODEL).is_dir():
            shutil.rmtree(place / _ASIDE, ignore_errors=True)
            os.rename(place / MODEL, place / _ASIDE)  # half a model must not be taken for one
        shutil.rmtree(place / _ASIDE, ignore_errors=True)

    def would_be_best(self, result: CellResult, score: str) -> bool:
        """Whether the model of a run is to be kept, before the run is written down; see [`CellStore.keep_best`]."""
        own = (result.key.model, result.key.strategy, result.fingerprint)
        others = [cell for cell in self._groups().get(own, []) if cell.key != result.key]
        return _best([*others, result], score) is result

    def keep_best(self, score: str, model: str | None = None, strategy: str | None = None) -> None:
        """
        Of each model and strategy keep the model of the seed with the best score, of equals the first.

        Runs of another fingerprint are another group: what is out of date drives nothing away.

        Args:
            score (`str`): such as `validation_accuracy`; more is better, but of `mse`.
            model, strategy (`str`, *optional*): look at these alone.
        """
        for (own_model, own_strategy, _), cells in self._groups().items():
            if model not in (None, own_model) or strategy not in (None, own_strategy):
                continue
            best = _best(cells, score)
            for cell in cells:
                if cell is not best:
                    self.drop_model(cell.key)

    def _groups(self) -> dict[tuple[str, str, str], list[CellResult]]:
        """Finished runs on all rows by model, strategy and fingerprint."""
        groups: dict[tuple[str, str, str], list[CellResult]] = {}
        for cell in self.cells():
            if cell.finished and cell.key.share == 1.0:
                groups.setdefault((cell.key.model, cell.key.strategy, cell.fingerprint), []).append(cell)
        return groups

    def note_error(self, key: CellKey, text: str) -> None:
        """Leave the traceback of a run that failed in its folder."""
        with whole_file(self.place(key) / ERROR) as unfinished:
            unfinished.write_text(text, encoding="utf-8")

    def clear(self, key: CellKey) -> None:
        """Remove what a run left, `cell.json` first; runs on parts of the rows, whose folders lie in it, stay."""
        place = self.place(key)
        if not place.is_dir():
            return
        (place / CELL).unlink(missing_ok=True)
        for path in place.iterdir():
            if path.is_dir() and path.name.lstrip(".").startswith(MODEL):
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()
        try:
            place.rmdir()
        except OSError:  # it holds other runs
            pass

    def sibling(self, key: CellKey, fingerprint: str) -> CellResult | None:
        """Another finished run of the strategy on all rows: its model is of the same size and speed."""
        found = self._groups().get((key.model, key.strategy, fingerprint), [])
        return next((cell for cell in found if cell.key != key), None)


def _predictions(split: str) -> str:
    assert split in (VALIDATION, TEST), split
    return f"predictions_{split}.safetensors"


def _cell(place: Path) -> CellResult | None:
    """The run that a folder holds, if all of it is there."""
    try:
        stored = json.loads((place / CELL).read_text(encoding="utf-8"))
        splits = stored.pop("predictions", [])
        cell = CellResult.from_json(stored)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
        return None  # of another version, or damaged: it is run anew
    return cell if all((place / _predictions(split)).is_file() for split in splits) else None


def _apart(stored: CellKey, key: CellKey) -> bool:
    return (stored.model, stored.strategy) != (key.model, key.strategy)


def _best(cells: Sequence[CellResult], score: str) -> CellResult:
    """Of equals the first seed; of errors the least is best."""
    sign = -1 if score.endswith("_mse") else 1

    def order(cell: CellResult) -> tuple[float, int]:
        value = cell.scores.get(score)
        return -np.inf if value is None else sign * value, -cell.key.seed

    return max(cells, key=order)


def _settings(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}): it is not known what the runs beside it depend on. "
            "Remove the file and `cells`, or name another `--output_dir`."
        ) from error


def _changed(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = sorted({*stored, *now})
    return [
        f"`{name}` {_told(stored, name)} there and {_told(now, name)} here"
        for name in names
        if stored.get(name) != now.get(name)
    ]


def _told(settings: Mapping[str, Any], name: str) -> str:
    text = json.dumps(settings[name]) if name in settings else "missing"
    return text if len(text) <= 80 else f"{text[:80]}..."


def _free(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}{number}")
    return free
