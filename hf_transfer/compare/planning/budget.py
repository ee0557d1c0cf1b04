"""The time that a comparison may take, and the time it took so far, also before an interruption."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from hf_transfer.files import whole_file


logger = logging.get_logger(__name__)

FILE = "time.json"
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_TERM = r"(?:\d+(?:\.\d+)?|\.\d+)"

__all__ = ["FILE", "Budget", "Clock", "duration"]


@dataclass(frozen=True)
class Budget:
    """
    The time that a comparison may take.

    Args:
        seconds (`float`): in all, from the start on.
        pilots (`float`, *optional*, defaults to 0.25): share that the search for learning rates may take.
        extras (`float`, *optional*, defaults to 0.75): share after which no further seed goes to a strategy that
            halving dropped.
        cells (`float`, *optional*, defaults to 0.9): share after which no run of the table goes on; the rest is for
            the learning curve, the winner and the report.
        curve (`float`, *optional*, defaults to 0.97): share after which no run of the learning curve goes on.

    Raises:
        ValueError: if there is no time.

    Example:
        >>> Budget.parse("1h30m").seconds, Budget.parse(45).seconds
        (5400.0, 45.0)
    """

    seconds: float
    pilots: float = 0.25
    extras: float = 0.75
    cells: float = 0.9
    curve: float = 0.97

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(
                f"`--budget {self.seconds:g}` is no time in which something could run. Give a positive one such as "
                "30m, or leave it out for as long as it takes."
            )

    @classmethod
    def parse(cls, given: str | float | Budget) -> Budget:
        """
        A budget in the words of a command line.

        Args:
            given (`str`, `float` or `Budget`): such as `90s`, `30m`, `2h`, `1h30m` or `1h 30m`; a number is seconds.

        Raises:
            ValueError: if it cannot be read, or is no time.
        """
        if isinstance(given, Budget):
            return given
        if isinstance(given, (int, float)):
            return cls(float(given))
        text = given.strip().lower()
        if re.fullmatch(_TERM, text):
            return cls(float(text))
        # every unit at most once, and the larger ones first: `30s1h` is more likely a slip than a wish
        terms = re.fullmatch(r"\s*".join(rf"(?:({_TERM})\s*{unit})?" for unit in _UNITS), text) if text else None
        if terms is None:
            raise ValueError(
                f"`--budget {given}` is no time: it is not known when to stop. Give seconds, or a time such as 90s, "
                "30m, 2h or 1h30m."
            )
        return cls(sum(float(term) * unit for term, unit in zip(terms.groups(), _UNITS.values(), strict=True) if term))

    def until(self, part: str) -> float:
        """
        Seconds from the start after which nothing of a part goes on.

        Args:
            part (`str`): `pilots`, `extras`, `cells`, `curve`, or `all`.
        """
        return self.seconds * (1.0 if part == "all" else getattr(self, part))


class Clock:
    """
    How long a comparison has been running, and how long its runs took; kept in `time.json` of its folder.

    The time of earlier, interrupted sessions counts up to the last time it was saved.

    Args:
        folder (`str` or path, *optional*): of the comparison; without one nothing is kept.
        started (`float`, *optional*): what `now` said at the start of this session; by default what it says now.
        now (`Callable`, *optional*, defaults to `time.monotonic`): the time in seconds.
        write (`bool`, *optional*, defaults to `True`): whether this process writes; only one may.
        resume (`bool`, *optional*, defaults to `True`): whether earlier sessions count.

    Example:
        >>> clock = Clock(started=5.0, now=lambda: 8.0)
        >>> clock.spent, clock.at(10.0)
        (3.0, 15.0)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        started: float | None = None,
        now: Callable[[], float] = time.monotonic,
        write: bool = True,
        resume: bool = True,
    ) -> None:
        self.path = None if folder is None else Path(folder) / FILE
        self.now, self.write = now, write
        self.started = now() if started is None else started
        stored = _read(self.path) if resume else {}
        self.earlier: float = stored.get("seconds", 0.0)
        self.cells: dict[str, float] = stored.get("cells", {})
        """Seconds of finished runs by their folder, with all that belongs to them."""
        self.speeds: dict[str, float] = stored.get("speeds", {})
        """What was timed on trial, by the names that [`Estimates`] gives."""

    @property
    def spent(self) -> float:
        """Seconds of the comparison until now, over all sessions."""
        return self.earlier + self.now() - self.started

    def at(self, spent: float) -> float:
        """What `now` says when `spent` seconds of the comparison are over."""
        return self.started + spent - self.earlier

    def save(self) -> None:
        """Write it down."""
        if self.path is None or not self.write:
            return
        content = {"seconds": self.spent, "cells": self.cells, "speeds": self.speeds}
        with whole_file(self.path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2), encoding="utf-8")


def duration(seconds: float) -> str:
    """
    A time as people say it.

    Example:
        >>> duration(0.44), duration(48.3), duration(125), duration(7260)
        ('0.4 s', '48 s', '2 min 5 s', '2 h 1 min')
    """
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def _read(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        stored = None
    if not isinstance(stored, dict) or not isinstance(stored.get("seconds"), (int, float)):
        logger.warning(f"{path} cannot be read: the time of earlier sessions does not count.")
        return {}
    return stored
