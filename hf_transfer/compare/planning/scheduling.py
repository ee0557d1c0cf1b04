"""Which runs of a comparison come when: the cheapest first, then seed by seed, with halving for the better half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_transfer.compare.cells import FAILED, FINISHED, VALIDATION, CellKey, CellResult
from hf_transfer.compare.execution.store import CellStore
from hf_transfer.compare.judging.row_scores import RowScores, row_scores
from hf_transfer.compare.planning.budget import Budget, Clock
from hf_transfer.compare.planning.halving import mean_scores, survivors, undecided
from hf_transfer.compare.planning.progress import Progress
from hf_transfer.compare.planning.sessions import Session
from hf_transfer.compare.planning.trials import check_budget, estimates_for, time_steps
from hf_transfer.compare.strategies.strategy import Strategy
from hf_transfer.recipe_arguments import LoopArguments


if TYPE_CHECKING:
    from hf_transfer.compare.problem.problem import Problem


Arm = tuple[str, str]
"""A strategy on a base model: label and name."""

__all__ = ["Arm", "run_comparison", "run_curve"]


def run_comparison(
    problem: Problem,
    strategies: Sequence[Strategy],
    seeds: Sequence[int],
    args: LoopArguments,
    store: CellStore,
    *,
    rates: Mapping[tuple[str, str], float],
    budget: Budget | None = None,
    halving: bool | None = None,
    ranks: Any = None,
    progress: bool = True,
    clock: Clock | None = None,
) -> list[CellResult]:
    """
    Every strategy on every base model with every seed, as far as time and halving allow.

    All strategies come with the first seed before any comes with the second. With halving the better half goes on
    after each seed, by the mean validation score; of equal ones those that train fewer weights, then those named
    first. The majority class goes on always, training from scratch while it is open whether transfer helps. With a
    budget what halving dropped comes last, if there is time.

    Args:
        problem (`Problem`): models and rows.
        strategies (`Sequence[Strategy]`): in the order of the table.
        seeds (`Sequence[int]`): of the runs.
        args (`LoopArguments`): of a run, but for the learning rate.
        store (`CellStore`): finished runs are taken from it, and others written to it.
        rates (`Mapping[tuple[str, str], float]`): as [`find_rates`] gives them.
        budget (`Budget`, *optional*): its time, from the start of the clock; runs that do not fit are skipped.
        halving (`bool`, *optional*): by default with a budget.
        ranks (*optional*): [`hf_transfer.compare.execution.ranks`], if several processes share the runs.
        progress (`bool`, *optional*, defaults to `True`): whether to tell of them.
        clock (`Clock`, *optional*): of the comparison; by default it starts now.

    Returns:
        `list[CellResult]`: for each model, strategy and seed, finished or not, the same on all processes.

    Raises:
        ValueError: if the budget has no room for one run.

    Relations:
        [`run_curve`] runs the leaders on parts of the rows afterwards.
    """
    session = _session(problem, strategies, args, store, rates, budget, ranks, progress, clock)
    arms = [(model.label, strategy.name) for model in problem.models for strategy in strategies]
    every = [CellKey(*arm, seed) for arm in arms for seed in seeds]
    if budget is not None:
        time_steps(problem, strategies, args, session.clock, ranks=ranks)
        session.agreed(lambda: check_budget(budget, session.clock, session.estimates, every))
    order = _Order(session, session.agreed(lambda: _cheapest_first(session, arms)), tuple(seeds))
    session.progress.plan(len(every))
    try:
        if budget is not None if halving is None else halving:
            order.halve()
        else:
            session.run([CellKey(*arm, seed) for seed in seeds for arm in order.arms])
    finally:
        session.progress.close()
        session.clock.save()
    return [session.done[key] for key in every]


def run_curve(
    problem: Problem,
    leaders: Sequence[tuple[str, Strategy]],
    shares: Sequence[float],
    seeds: Sequence[int],
    args: LoopArguments,
    store: CellStore,
    *,
    rates: Mapping[tuple[str, str], float],
    budget: Budget | None = None,
    ranks: Any = None,
    progress: bool = True,
    clock: Clock | None = None,
) -> list[CellResult]:
    """
    The leaders on parts of the labelled rows, for the learning curve.

    Args:
        problem, args, store, rates, budget, ranks, progress, clock: as for [`run_comparison`]. Where folds validate,
            time for training the winner on all rows is left.
        leaders (`Sequence[tuple[str, Strategy]]`): labels of models, and strategies.
        shares (`Sequence[float]`): of the rows, below 1; the first come first.
        seeds (`Sequence[int]`): of the runs.

    Returns:
        `list[CellResult]`: for each leader, share and seed.
    """
    strategies = list({strategy.name: strategy for _, strategy in leaders}.values())
    session = _session(problem, strategies, args, store, rates, budget, ranks, progress, clock)
    if problem.by_folds and budget is not None:
        whole = [session.estimates.seconds(CellKey(model, one.name, seeds[0])) for model, one in leaders]
        session.keep = max((seconds for seconds in whole if seconds is not None), default=0.0)
    arms = [(model, strategy.name) for model, strategy in leaders]
    keys = [CellKey(*arm, seed, share) for seed in seeds for share in shares for arm in arms]
    session.progress.plan(len(keys))
    try:
        session.run(keys, until="curve")
    finally:
        session.progress.close()
        session.clock.save()
    return [session.done[CellKey(*arm, seed, share)] for arm in arms for share in shares for seed in seeds]


@dataclass
class _Order:
    """The order of the runs of a comparison with halving."""

    session: Session
    arms: list[Arm]
    """The cheapest first."""
    seeds: tuple[int, ...]

    def halve(self) -> None:
        """Run them, and say of the others why they are not run."""
        session = self.session
        for number, seed in enumerate(self.seeds):
            chosen = session.agreed(lambda number=number: self.chosen(number))
            session.run([CellKey(*arm, seed) for arm in chosen])
        if session.budget is not None:
            session.run(session.agreed(self.dropped), until="extras")
        every = [CellKey(*arm, seed) for seed in self.seeds for arm in self.arms]
        session.skip(every, self.reason)

    def chosen(self, number: int) -> list[Arm]:
        """Who comes with the seed of that number."""
        if number == 0:
            return self.arms
        scores = self.scores()
        others = [arm for arm in self.by_weights() if not self.strategy(arm).baseline]
        going = set(survivors(scores, others, self.seeds[:number]))
        for arm in self.arms:
            if self.strategy(arm).baseline and (self.strategy(arm).rate is None or self.open(arm)):
                going.add(arm)
        return [arm for arm in self.arms if arm in going and self.begun(arm)]

    def dropped(self) -> list[CellKey]:
        """Runs that halving left out: those of baselines first, then the better ones."""
        means = mean_scores(self.scores(), self.seeds)
        arms = [arm for arm in self.arms if arm in means and self.begun(arm)]
        arms.sort(key=lambda arm: (not self.strategy(arm).baseline, -means[arm]))
        keys = [CellKey(*arm, seed) for seed in self.seeds for arm in arms]
        return [key for key in keys if key not in self.session.done]

    def open(self, scratch: Arm) -> bool:
        """Whether it cannot be said yet if transfer from its model helps."""
        scores = self.scores()
        others = [arm for arm in scores if arm[0] == scratch[0] and not self.strategy(arm).baseline]
        if not others or scratch not in scores:
            return True
        means = mean_scores(scores, self.seeds)
        leader = max(others, key=lambda arm: means[arm])
        pairs = [(self.rows(leader, seed), self.rows(scratch, seed)) for seed in self.seeds]
        both = [(first, second) for first, second in pairs if first is not None and second is not None]
        return undecided([first for first, _ in both], [second for _, second in both])

    def rows(self, arm: Arm, seed: int) -> RowScores | None:
        """Scores of the rows that validate a finished run."""
        result = self.session.done.get(CellKey(*arm, seed))
        if result is None or not result.finished:
            return None
        said = self.session.store.predictions(result.key, VALIDATION)
        return None if said is None else row_scores(said, regression=self.session.problem.regression)

    def scores(self) -> dict[Arm, dict[int, float]]:
        """Validation scores of finished runs by seed, more of which is better."""
        sign = -1 if self.session.problem.metric == "mse" else 1
        found: dict[Arm, dict[int, float]] = {}
        for key, result in self.session.done.items():
            score = result.scores.get(self.session.score)
            if result.finished and score is not None:
                found.setdefault((key.model, key.strategy), {})[key.seed] = sign * score
        return found

    def by_weights(self) -> list[Arm]:
        """All, those that train fewest weights first: times would differ from run to run, and so would the choice."""
        done = self.session.done
        trained = {
            (key.model, key.strategy): result.costs.trained_parameters
            for key, result in done.items()
            if result.finished
        }
        return sorted(_in_table(self.session, self.arms), key=lambda arm: trained.get(arm, 0))

    def begun(self, arm: Arm) -> bool:
        """Whether the first seed of it is finished."""
        first = self.session.done.get(CellKey(*arm, self.seeds[0]))
        return first is not None and first.finished

    def strategy(self, arm: Arm) -> Strategy:
        """That of an arm."""
        return self.session.strategies[arm[1]]

    def reason(self, key: CellKey) -> str:
        """Why a run was left out."""
        first = self.session.done[CellKey(key.model, key.strategy, self.seeds[0])]
        if first.status == FAILED:
            return "the run with the first seed failed"
        if first.status != FINISHED:
            return "the run with the first seed was skipped"
        if self.strategy((key.model, key.strategy)).baseline:
            return "halving: transfer was decided before"
        return "halving: others were better with the seeds before"


def _session(
    problem: Problem,
    strategies: Sequence[Strategy],
    args: LoopArguments,
    store: CellStore,
    rates: Mapping[tuple[str, str], float],
    budget: Budget | None,
    ranks: Any,
    progress: bool,
    clock: Clock | None,
) -> Session:
    first = ranks is None or ranks.position()[0] == 0
    clock = Clock(store.folder, write=first) if clock is None else clock
    return Session(
        problem,
        {strategy.name: strategy for strategy in strategies},
        args,
        store,
        rates,
        clock,
        estimates_for(problem, strategies, args, clock),
        budget,
        ranks=ranks,
        progress=Progress(shown=progress and first and not args.disable_tqdm, spent=lambda: clock.spent),
    )


def _cheapest_first(session: Session, arms: Sequence[Arm]) -> list[Arm]:
    """What trains nothing by gradient, baselines before others; then the rest, with a budget by the time it takes."""

    def cost(arm: Arm) -> tuple[int, float]:
        strategy = session.strategies[arm[1]]
        if strategy.rate is None:
            return (0 if strategy.baseline else 1), 0.0
        known = session.estimates.seconds(CellKey(*arm, 0)) if session.budget is not None else None
        return 2, known or 0.0

    return sorted(arms, key=cost)


def _in_table(session: Session, arms: Sequence[Arm]) -> list[Arm]:
    models, names = [model.label for model in session.problem.models], list(session.strategies)
    return sorted(arms, key=lambda arm: (models.index(arm[0]), names.index(arm[1])))
