"""How far a comparison is: one line in a terminal, or one for every finished run in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TextIO

from transformers.utils import logging

from hf_transfer.compare.cells import FINISHED, CellKey, CellResult
from hf_transfer.compare.planning.budget import duration


logger = logging.get_logger(__name__)

__all__ = ["Progress", "named"]


class Progress:
    """
    Runs done and to do, the one that is running, and the time left.

    In a terminal it is one line that is written anew; elsewhere every run that ends is a line of the log.

    Args:
        shown (`bool`, *optional*, defaults to `True`): whether it says anything.
        stream (`TextIO`, *optional*, defaults to `sys.stderr`): where it writes if that is a terminal.
        spent (`Callable`): seconds of the comparison until now.
    """

    def __init__(
        self, *, shown: bool = True, stream: TextIO | None = None, spent: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.shown, self.spent = shown, spent
        self.stream = sys.stderr if stream is None else stream
        self.done = self.total = 0
        self._bar: Any = None

    @property
    def in_terminal(self) -> bool:
        """Whether it is one line that is written anew."""
        return self.stream.isatty()

    def plan(self, more: int) -> None:
        """There are so many runs more to do."""
        self.total += more
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.refresh()

    def starts(self, key: CellKey, left: float | None) -> None:
        """
        A run starts.

        Args:
            key (`CellKey`): which.
            left (`float`, *optional*): seconds until all are done, if that is known.
        """
        if self.shown and self.in_terminal:
            bar = self._terminal()
            bar.n = self.done
            bar.set_description_str(named(key), refresh=False)
            bar.set_postfix_str(_left(left), refresh=True)

    def ends(self, result: CellResult, left: float | None, *, score: str | None = None, found: bool = False) -> None:
        """
        A run ended.

        Args:
            result (`CellResult`): what it came to.
            left (`float`, *optional*): seconds until all are done, if that is known.
            score (`str`, *optional*): name of the score that is told.
            found (`bool`, *optional*, defaults to `False`): whether it was finished before.
        """
        self.done += 1
        self.total = max(self.total, self.done)
        if not self.shown:
            return
        if self.in_terminal:
            bar = self._terminal()
            bar.n = self.done
            bar.set_postfix_str(_left(left), refresh=True)
            if result.status == FINISHED:
                return
        what = _told(result, score, found)
        line = f"{self.done} of {self.total} runs, {duration(self.spent())} so far{_after(left)}: {what}"
        if self.in_terminal:
            self._bar.write(what, file=self.stream)  # a failure must not vanish with the line
        else:
            logger.info(line)

    def passes(self) -> None:
        """A run is done with, elsewhere or not at all."""
        self.done += 1
        if self._bar is not None:
            self._bar.n = self.done
            self._bar.refresh()

    def close(self) -> None:
        """Nothing more is to come."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _terminal(self) -> Any:
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self.total, file=self.stream, unit="run", bar_format=_FORMAT)
        return self._bar


_FORMAT = "{n_fmt}/{total_fmt} |{bar:20}| {desc} [{elapsed}{postfix}]"


def named(key: CellKey) -> str:
    """
    A run in words.

    Example:
        >>> named(CellKey("vit", "full", 1)), named(CellKey("vit", "full", 0, 0.25))
        ('vit full, seed 1', 'vit full, seed 0, 25% of the rows')
    """
    part = "" if key.share == 1.0 else f", {100 * key.share:.3g}% of the rows"
    return f"{key.model} {key.strategy}, seed {key.seed}{part}"


def _told(result: CellResult, score: str | None, found: bool) -> str:
    if result.status != FINISHED:
        return f"{named(result.key)} {result.status}: {result.reason}"
    value = None if score is None else result.scores.get(score)
    scored = "" if value is None else f" {score} {value:.4f}"
    return f"{named(result.key)}{scored} " + ("(found)" if found else f"in {duration(result.costs.seconds)}")


def _left(left: float | None) -> str:
    return "" if left is None else f"about {duration(left)} left"


def _after(left: float | None) -> str:
    return "" if left is None else f", {_left(left)}"
