"""How long runs of a comparison will take, from those that are finished and from timed trials."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hf_transfer.compare.cells import CellKey
from hf_transfer.compare.planning.budget import Clock
from hf_transfer.compare.strategies.strategy import Strategy


__all__ = ["Estimates", "rest_speed", "row_speed", "step_speed"]


def step_speed(model: str, group: str) -> str:
    """Under which name the seconds of an optimizer step are kept."""
    return f"{model}/{group}/step"


def rest_speed(model: str, group: str) -> str:
    """Under which name the seconds of a run beside its steps are kept."""
    return f"{model}/{group}/rest"


def row_speed(model: str) -> str:
    """Under which name the seconds of a row through the model, without its gradient, are kept."""
    return f"{model}/row"


@dataclass(frozen=True)
class Estimates:
    """
    How long runs will take.

    Args:
        clock (`Clock`): knows how long finished runs took, and what was timed on trial.
        strategies (`Mapping[str, Strategy]`): by name.
        steps (`int`): optimizer steps of a run.
        rows (`int`): rows of all splits, which a probe needs the features of.

    Example:
        >>> clock = Clock()
        >>> clock.cells[CellKey("m", "full", 0).folder] = 6.0
        >>> Estimates(clock, {}, steps=100, rows=50).seconds(CellKey("m", "full", 1))
        6.0
    """

    clock: Clock
    strategies: Mapping[str, Strategy]
    steps: int
    rows: int

    def seconds(self, key: CellKey) -> float | None:
        """
        Of a run: as long as the same strategy took with other seeds; else as the slowest of the same model that takes
        the same learning rate; else as the trial says. `None` if nothing is known.
        """
        strategy = self.strategies.get(key.strategy)
        own = self._took(key, [key.strategy])
        if own:
            return statistics.fmean(own)
        if strategy is None:
            return None
        if strategy.rate is None:
            return 0.0 if strategy.baseline else self._by_rows(key)
        alike = [other.name for other in self.strategies.values() if other.rate == strategy.rate]
        took, step = self._took(key, alike), self.clock.speeds.get(step_speed(key.model, strategy.rate))
        if took:
            return max(took)
        if step is None:
            return None
        rest = self.clock.speeds.get(rest_speed(key.model, strategy.rate), 0.0)
        return step * self.steps + rest + (self._by_rows(key) or 0.0)

    def left(self, keys: Iterable[CellKey], *, ranks: int = 1) -> float | None:
        """
        Of several runs on some ranks; what is unknown takes as long as the mean of the others.

        Example:
            >>> Estimates(Clock(), {}, steps=1, rows=1).left([])
            0.0
        """
        every = [self.seconds(key) for key in keys]
        known = [seconds for seconds in every if seconds is not None]
        if not every:
            return 0.0
        return statistics.fmean(known) * len(every) / ranks if known else None

    def _took(self, key: CellKey, strategies: Sequence[str]) -> list[float]:
        """Finished runs of these strategies on the model: with the share of rows of `key`, else with all rows."""
        for share in (key.share, 1.0):
            runs = {_without_seed(replace(key, strategy=name, share=share).folder) for name in strategies}
            took = [seconds for folder, seconds in self.clock.cells.items() if _without_seed(folder) in runs]
            if took:
                return took
        return []

    def _by_rows(self, key: CellKey) -> float | None:
        row = self.clock.speeds.get(row_speed(key.model))
        return None if row is None else row * self.rows


def _without_seed(folder: str) -> tuple[str, ...]:
    """
    The folder of a run for all seeds.

    Example:
        >>> _without_seed(CellKey("m", "full", 2, 0.5).folder)
        ('cells', 'm', 'full', 'share_0.5')
    """
    return tuple(part for part in folder.split("/") if not part.startswith("seed_"))
