"""A few timed steps of every kind of training, and whether a budget has room for one run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_transfer.compare.cells import CellKey
from hf_transfer.compare.planning.budget import Budget, Clock, duration
from hf_transfer.compare.planning.estimates import Estimates, step_speed
from hf_transfer.compare.planning.pilots import Pilot, plainest
from hf_transfer.compare.strategies.strategy import Strategy
from hf_transfer.recipe_arguments import LoopArguments


if TYPE_CHECKING:
    from hf_transfer.compare.problem.problem import Problem


STEPS = 4
"""Of a trial."""
_RATE = 1e-4  # of a trial: how long a step takes does not depend on it

__all__ = ["STEPS", "check_budget", "estimates_for", "groups_of", "time_steps"]


def groups_of(strategies: Iterable[Strategy]) -> list[str]:
    """The kinds of training that strategies are of, in their order."""
    return list(dict.fromkeys(strategy.rate for strategy in strategies if strategy.rate is not None))


def time_steps(
    problem: Problem, strategies: Sequence[Strategy], args: LoopArguments, clock: Clock, *, ranks: Any = None
) -> None:
    """
    Let the clock learn how long a step takes of every base model and kind of training that it does not know yet.

    Args:
        problem (`Problem`): models and rows.
        strategies (`Sequence[Strategy]`): that are to be run.
        args (`LoopArguments`): of a run.
        clock (`Clock`): of the comparison.
        ranks (*optional*): [`hf_transfer.compare.execution.ranks`]; the first tries, all learn.
    """

    def timed() -> dict[str, float]:
        found: dict[str, float] = {}
        for model in problem.models:
            for group in groups_of(strategies):
                if step_speed(model.label, group) not in clock.speeds:
                    found |= _timed(Pilot(problem, model.label, plainest(group, strategies), args))
        return found

    clock.speeds |= timed() if ranks is None else ranks.of_first(timed)
    clock.save()


def estimates_for(problem: Problem, strategies: Sequence[Strategy], args: LoopArguments, clock: Clock) -> Estimates:
    """What can be said of the time that runs of a problem will take."""
    data: Any = problem.data
    splits = [len(split) for split in (data.train, data.eval, data.test) if split is not None]
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    steps = args.max_steps if args.max_steps > 0 else math.ceil(splits[0] / batch) * args.num_train_epochs
    return Estimates(clock, {strategy.name: strategy for strategy in strategies}, round(steps), sum(splits))


def check_budget(budget: Budget, clock: Clock, estimates: Estimates, keys: Iterable[CellKey]) -> None:
    """
    Refuse a budget that no run fits into but those of baselines; none is refused once a run is finished.

    Args:
        budget (`Budget`): of the comparison.
        clock (`Clock`): of the comparison.
        estimates (`Estimates`): of its runs.
        keys (`Iterable[CellKey]`): the runs.

    Raises:
        ValueError: if there is no room for the shortest.
    """
    if clock.cells:
        return
    known = {key: estimates.seconds(key) for key in keys if not _baseline(estimates.strategies, key)}
    times = {key: seconds for key, seconds in known.items() if seconds is not None}
    if not times:
        return
    shortest = min(times, key=lambda key: times[key])
    spent = clock.spent
    if spent + times[shortest] > budget.until("cells"):
        least = math.ceil((spent + times[shortest]) / budget.cells)
        raise ValueError(
            f"`--budget {duration(budget.seconds)}` has no room for one run: {duration(spent)} are gone, and "
            f"{shortest.strategy} of {shortest.model}, the shortest, takes about {duration(times[shortest])}. Give "
            f"{least}s at least, and several times as much to compare all strategies; or lower `--max_steps`."
        )


def _timed(pilot: Pilot) -> dict[str, float]:
    try:
        pilot.loss(_RATE, steps=STEPS)
    except Exception:  # its run will fail in the same way, and tell why
        return {}
    return pilot.speeds


def _baseline(strategies: Mapping[str, Strategy], key: CellKey) -> bool:
    return key.strategy in strategies and strategies[key.strategy].baseline
