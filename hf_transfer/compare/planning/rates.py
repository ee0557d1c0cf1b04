"""Learning rates of a comparison: those that were given, or those that short pilot runs choose."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from hf_transfer.compare.cells import FAILED, FINISHED, CellKey, CellResult, Costs
from hf_transfer.compare.execution.deadline import OutOfTimeError
from hf_transfer.compare.planning.budget import Budget, Clock
from hf_transfer.compare.planning.pilots import SHARE, Pilot, plainest
from hf_transfer.compare.planning.trials import check_budget, estimates_for, groups_of, time_steps
from hf_transfer.compare.results import fingerprint
from hf_transfer.compare.runs import loop_settings
from hf_transfer.compare.strategies.strategy import Strategy
from hf_transfer.files import whole_file
from hf_transfer.recipe_arguments import LoopArguments


if TYPE_CHECKING:
    from hf_transfer.compare.problem.problem import Problem


logger = logging.get_logger(__name__)

FILE = "rates.json"
GRIDS: dict[str, tuple[float, ...]] = {
    "whole": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    "fixed_statistics": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    "probed": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    "adapter": (1e-4, 3e-4, 1e-3, 3e-3),  # at 1e-2 short runs look well and longer ones of BERTs end at chance
    "scratch": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
}
"""Rates that are tried, by what is trained."""
DEFAULTS = {"whole": 1e-4, "fixed_statistics": 1e-4, "probed": 3e-5, "adapter": 1e-3, "scratch": 1e-3}
"""Rates that pilot runs begin with, and that are taken where none came to anything. That after a probe is low, so that
what the probe found is not lost in the first steps."""
FALL = 0.005
"""Share of the loss by which another rate must be better."""
_WORDS = {
    "whole": "whole models",
    "fixed_statistics": "models with fixed batch statistics",
    "probed": "models with the head of a probe",
    "adapter": "adapters",
    "scratch": "models from random weights",
}

__all__ = ["DEFAULTS", "FILE", "GRIDS", "choose_rate", "find_rates", "given_rates"]


def choose_rate(
    loss: Callable[[float], float], grid: Sequence[float], *, start: float | None = None
) -> tuple[float | None, dict[float, float]]:
    """
    The rate of the lowest loss. It begins at a usual rate and climbs while the loss falls; where the first step up
    does not pay it goes down instead. Less than 0.5% is no fall: pilot runs that are too short to tell stay where
    they began.

    Args:
        loss (`Callable`): of a rate; not finite where it diverged.
        grid (`Sequence[float]`): rates, the lowest first.
        start (`float`, *optional*): of the grid, where to begin; by default its middle.

    Returns:
        `tuple[float | None, dict[float, float]]`: the rate, `None` if no loss is finite; and the losses of the rates
        that were tried, the lowest rate first.

    Example:
        >>> curve = {1e-4: 2.0, 3e-4: 1.7, 1e-3: 1.0, 3e-3: 1.5, 1e-2: 9.0}
        >>> choose_rate(curve.__getitem__, list(curve))
        (0.001, {0.0003: 1.7, 0.001: 1.0, 0.003: 1.5})
    """
    begun = len(grid) // 2 if start is None else list(grid).index(start)
    best, losses = None, {grid[begun]: loss(grid[begun])}
    if math.isfinite(losses[grid[begun]]):
        best = grid[begun]
    for way in (grid[begun + 1 :], grid[:begun][::-1]):
        for rate in way:
            losses[rate] = loss(rate)
            if math.isfinite(losses[rate]) and (best is None or losses[rate] < (1 - FALL) * losses[best]):
                best = rate
            elif best is not None or rate > grid[begun]:  # where all diverged lower rates may not
                break
        if best is not None and best > grid[begun]:
            break
    return best, dict(sorted(losses.items()))


def given_rates(models: Sequence[str], learning_rate: float) -> dict[tuple[str, str], float]:
    """
    The rates that follow from the one that was given: of adapters ten times as much, but at most 1e-2, and from
    random weights 1e-3 at least.

    Example:
        >>> {group: rate for (_, group), rate in given_rates(["m"], 1e-4).items()}
        {'whole': 0.0001, 'fixed_statistics': 0.0001, 'probed': 0.0001, 'adapter': 0.001, 'scratch': 0.001}
    """
    adapter = max(learning_rate, min(10 * learning_rate, 1e-2))
    rates = {group: learning_rate for group in ("whole", "fixed_statistics", "probed")}
    rates |= {"adapter": adapter, "scratch": max(learning_rate, 1e-3)}
    return {(model, group): rate for model in models for group, rate in rates.items()}


def find_rates(
    problem: Problem,
    strategies: Sequence[Strategy],
    args: LoopArguments,
    *,
    folder: str | Path | None = None,
    clock: Clock | None = None,
    budget: Budget | None = None,
    ranks: Any = None,
) -> dict[tuple[str, str], float]:
    """
    A learning rate for every base model and every kind of training: of the `whole` model, of one with
    `fixed_statistics` or a `probed` head, of an `adapter`, or from `scratch`. Where `args` has one, the others follow
    from it; else pilot runs choose.

    Pilot runs of the plainest strategy of a kind train for a quarter of the steps on four fifths of the training rows,
    with the first seed. The rate of the lowest loss on the other fifth is taken ([`softened_loss`]): rows that
    validate or test take no part.

    Args:
        problem (`Problem`): models and rows.
        strategies (`Sequence[Strategy]`): that are to be run; kinds that none of them has are left out.
        args (`LoopArguments`): of a run; a `learning_rate` of 0 is none.
        folder (`str` or path, *optional*): of the comparison; what was found is kept there, in `rates.json`.
        clock (`Clock`, *optional*): of the comparison; learns how long a step takes.
        budget (`Budget`, *optional*): of the comparison; pilot runs take a quarter of it at most.
        ranks (*optional*): [`hf_transfer.compare.execution.ranks`], if several share the runs.

    Returns:
        `dict[tuple[str, str], float]`: by label of the model and kind.

    Raises:
        ValueError: if the budget has no room for one run; pilot runs have not begun then.
    """
    models = [model.label for model in problem.models]
    if args.learning_rate > 0:
        return given_rates(models, args.learning_rate)
    clock = Clock() if clock is None else clock
    if budget is not None:
        time_steps(problem, strategies, args, clock, ranks=ranks)
        keys = [CellKey(model, strategy.name, args.seed) for model in models for strategy in strategies]
        _first(ranks, lambda: check_budget(budget, clock, estimates_for(problem, strategies, args, clock), keys))
    pilots = {
        CellKey(model, group, args.seed): Pilot(problem, model, plainest(group, strategies), args)
        for model in models
        for group in groups_of(strategies)
    }
    digests = {key: _digest(problem, pilot, args) for key, pilot in pilots.items()}
    kept = _Kept(folder, digests, write=clock.write)
    missing = [key for key in pilots if key not in kept.found]
    end = math.inf if budget is None else clock.at(budget.until("pilots"))
    deadline = None if budget is None else end

    def work(keys: Sequence[CellKey], *, keep: bool) -> list[CellResult]:
        made = []
        for key in keys:
            whole = CellKey(key.model, pilots[key].strategy.name, key.seed)
            takes = SHARE * (estimates_for(problem, strategies, args, clock).seconds(whole) or 0.0)
            room = partial(_room, clock, end - takes)
            made.append(_try(key, pilots[key], digests[key], deadline, room))
            if keep:
                kept.add(made[-1])
        return made

    if ranks is None:
        work(missing, keep=True)
    else:
        part = ranks.share(missing)
        for result in ranks.together(lambda: work(part, keep=False)):
            kept.add(result)
    rates = {}
    for key in pilots:
        result = kept.found[key]
        clock.speeds |= {name: value for name, value in result.scores.items() if "/" in name and value is not None}
        rates[key.model, key.strategy] = float(result.scores.get("rate") or DEFAULTS[key.strategy])
        if ranks is None or ranks.position()[0] == 0:
            _tell(result, rates[key.model, key.strategy], alone=len(models) == 1)
    clock.save()
    return rates


def _room(clock: Clock, latest: float) -> bool:
    return clock.now() <= latest


def _first(ranks: Any, work: Callable[[], None]) -> None:
    work() if ranks is None else ranks.of_first(work)


class _Kept:
    """What pilot runs came to, in `rates.json`."""

    def __init__(self, folder: str | Path | None, digests: Mapping[CellKey, str], *, write: bool) -> None:
        self.path = None if folder is None else Path(folder) / FILE
        self.write = write
        self.found = {one.key: one for one in self._stored() if digests.get(one.key) == one.fingerprint}

    def _stored(self) -> list[CellResult]:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8")) if self.path else []
            return [CellResult.from_json(one) for one in stored]
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return []  # of another version, or damaged: found anew

    def add(self, result: CellResult) -> None:
        self.found[result.key] = result
        # what only the want of time cut short is tried again when there is more of it
        content = [one.to_json() for one in self.found.values() if "in time" not in one.note]
        if self.path is not None and self.write:
            with whole_file(self.path) as unfinished:
                unfinished.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _try(key: CellKey, pilot: Pilot, digest: str, deadline: float | None, room: Callable[[], bool]) -> CellResult:
    """Pilot runs at the rates of the grid, as a result: the loss of each rate, the rate, and what was timed."""
    failures: list[str] = []

    def loss(rate: float) -> float:
        if "in time" not in failures and not room():
            failures.append("in time")
        if "in time" in failures:
            return math.nan
        try:
            return pilot.loss(rate, deadline=deadline)
        except OutOfTimeError:
            failures.append("in time")
        except Exception as error:  # a rate, or a model, at which a strategy fails is no reason to stop the others
            failures.append(type(error).__name__)
        return math.nan

    best, losses = choose_rate(loss, GRIDS[key.strategy], start=DEFAULTS[key.strategy])
    scores: dict[str, float | None] = {f"loss_{rate:g}": value for rate, value in losses.items()}
    scores = {name: value if value is not None and math.isfinite(value) else None for name, value in scores.items()}
    scores |= {"rate": best, **pilot.speeds}
    reasons = ", ".join(dict.fromkeys(failures))
    status = FINISHED if best is not None else FAILED
    return CellResult(key, digest, status, scores=scores, costs=Costs(), steps=pilot.steps, note=reasons)


def _digest(problem: Problem, pilot: Pilot, args: LoopArguments) -> str:
    loop = {name: value for name, value in loop_settings(args).items() if name != "world_size"}  # each runs alone
    depends = {"problem": problem.fingerprint(pilot.model), "strategy": pilot.strategy.settings(), "loop": loop}
    return fingerprint({**depends, "grid": GRIDS[pilot.group], "share": SHARE, "seed": args.seed})


def _tell(result: CellResult, rate: float, *, alone: bool) -> None:
    what = _WORDS[result.key.strategy] + ("" if alone else f" of {result.key.model}")
    tried = {name.removeprefix("loss_"): value for name, value in result.scores.items() if name.startswith("loss_")}
    if not result.finished:
        why = f" ({result.note})" if result.note else ""
        logger.warning(f"No pilot run for {what} came to an end{why}: they take the usual learning rate {rate:g}.")
        return
    losses = ", ".join(f"{name} {'diverged' if value is None else f'{value:.3f}'}" for name, value in tried.items())
    by = f"by the loss on held-out rows after {result.steps} steps"
    logger.info(f"Learning rate of {what}: {rate:g}, {by} ({losses})")
