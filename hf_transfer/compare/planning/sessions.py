"""The runs of a comparison in one process or several: looked up or trained, and timed, while there is time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from hf_transfer.compare.cells import FAILED, SKIPPED, VALIDATION, CellKey, CellResult
from hf_transfer.compare.execution.deadline import ENDED
from hf_transfer.compare.execution.failures import reason_of
from hf_transfer.compare.execution.running import run_cell
from hf_transfer.compare.execution.store import CellStore
from hf_transfer.compare.planning.budget import Budget, Clock, duration
from hf_transfer.compare.planning.estimates import Estimates
from hf_transfer.compare.planning.pilots import with_rate
from hf_transfer.compare.planning.progress import Progress
from hf_transfer.compare.results import fingerprint
from hf_transfer.compare.strategies.strategy import Strategy
from hf_transfer.recipe_arguments import LoopArguments


if TYPE_CHECKING:
    from hf_transfer.compare.problem.problem import Problem


T = TypeVar("T")

__all__ = ["Session"]


@dataclass
class Session:
    """
    What all runs of a comparison have in common, and those that are done.

    Args:
        problem (`Problem`): models and rows.
        strategies (`Mapping[str, Strategy]`): by name.
        args (`LoopArguments`): of a run, but for the learning rate.
        store (`CellStore`): of finished runs.
        rates (`Mapping[tuple[str, str], float]`): learning rates by label of the model and kind of training.
        clock (`Clock`): of the comparison.
        estimates (`Estimates`): how long runs take.
        budget (`Budget`, *optional*): its time.
        keep (`float`, *optional*, defaults to 0.0): seconds of the budget that are left to what comes later.
        ranks (*optional*): [`hf_transfer.compare.execution.ranks`], if several processes share the runs.
        progress (`Progress`): tells of them.
    """

    problem: Problem
    strategies: Mapping[str, Strategy]
    args: LoopArguments
    store: CellStore
    rates: Mapping[tuple[str, str], float]
    clock: Clock
    estimates: Estimates
    budget: Budget | None = None
    keep: float = 0.0
    ranks: Any = None
    progress: Progress = field(default_factory=lambda: Progress(shown=False))
    done: dict[CellKey, CellResult] = field(default_factory=dict)

    @property
    def score(self) -> str:
        """What runs are compared by."""
        return f"{VALIDATION}_{self.problem.metric}"

    def agreed(self, decide: Callable[[], T]) -> T:
        """What the first process decides, on all."""
        return decide() if self.ranks is None else self.ranks.of_first(decide)

    def run(self, keys: Sequence[CellKey], *, until: str = "cells") -> None:
        """
        Do runs that are not done, in their order.

        Args:
            keys (`Sequence[CellKey]`): which.
            until (`str`, *optional*, defaults to `"cells"`): the part of the budget that they belong to.
        """
        found = self.agreed(lambda: [stored for key in keys if (stored := self._stored(key)) is not None])
        for result in found:
            if result.key not in self.done:
                self.done[result.key] = result
                self.clock.cells.setdefault(result.key.folder, result.costs.seconds)
                self.progress.ends(result, None, score=self.score, found=True)
        missing = [key for key in keys if key not in self.done]
        if self.ranks is None:
            self._work(missing, until, self._took_down)
            return
        part = self.ranks.share(missing, [self.estimates.seconds(key) or 1.0 for key in missing])
        for result in self.ranks.together(lambda: self._work(part, until, self._took_down)):
            if result.key not in self.done:
                self.progress.passes()
                self._took_down(result, result.costs.seconds)

    def skip(self, keys: Sequence[CellKey], reason: Callable[[CellKey], str]) -> None:
        """Leave out the runs that are not done."""
        for key in keys:
            if key not in self.done:
                self.done[key] = self._skipped(key, reason(key))
                self.progress.passes()

    def _work(
        self, keys: Sequence[CellKey], until: str, take_down: Callable[[CellResult, float], None]
    ) -> list[CellResult]:
        results = []
        for number, key in enumerate(keys):
            reason = self._no_room(key, until)
            start = self.clock.now()
            if reason is None:
                self.progress.starts(key, self._left(keys[number:], until))
                self.clock.save()
                result = self._cell(key, until)
            else:
                result = self._skipped(key, reason)
            take_down(result, self.clock.now() - start)
            self.progress.ends(result, self._left(keys[number + 1 :], until), score=self.score)
            results.append(result)
        return results

    def _took_down(self, result: CellResult, seconds: float) -> None:
        self.done[result.key] = result
        if result.finished:
            self.clock.cells[result.key.folder] = seconds
        self.clock.save()

    def _cell(self, key: CellKey, until: str) -> CellResult:
        strategy, digest = self.strategies[key.strategy], self._digest(key)
        deadline = None if self.budget is None else self.clock.at(self.budget.until(until) - self.keep)
        try:
            setup = self.problem.setup(key, with_rate(self.args, self._rate(key)))
        except Exception as error:  # one model that cannot be prepared must not end the runs of others
            return CellResult(key, digest, FAILED, reason_of(error))
        return run_cell(key, strategy, setup, self.store, fingerprint=digest, deadline=deadline)

    def _no_room(self, key: CellKey, until: str) -> str | None:
        """Why a run is not begun."""
        if self.budget is None:
            return None
        left = self.budget.until(until) - self.keep - self.clock.spent
        if left <= 0:
            return ENDED
        seconds = self.estimates.seconds(key)
        if seconds is None or seconds <= left:
            return None
        return f"it takes about {duration(seconds)}, and {duration(left)} of the budget are left for such runs"

    def _left(self, keys: Sequence[CellKey], until: str) -> float | None:
        """Seconds until all of these are done."""
        left = self.estimates.left(keys)
        if self.budget is None or left is None:
            return left
        return max(0.0, min(left, self.budget.until(until) - self.keep - self.clock.spent))

    def _stored(self, key: CellKey) -> CellResult | None:
        return self.store.find(key, self._digest(key))

    def _skipped(self, key: CellKey, reason: str) -> CellResult:
        return CellResult(key, self._digest(key), SKIPPED, reason)

    def _rate(self, key: CellKey) -> float | None:
        group = self.strategies[key.strategy].rate
        return None if group is None else self.rates[key.model, group]

    def _digest(self, key: CellKey) -> str:
        """Of what a run depends on beside its key and the settings that all share."""
        return fingerprint(
            {
                "strategy": self.strategies[key.strategy].settings(),
                "rate": self._rate(key),
                "steps": [self.args.max_steps, self.args.num_train_epochs],
                "problem": self.problem.fingerprint(key.model),
            }
        )
