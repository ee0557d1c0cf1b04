"""What `compare` does: data and models, learning rates, all runs, the answer, the report and the recommended model."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from hf_transfer.compare.arguments import CompareLoopArguments
from hf_transfer.compare.cells import CellResult
from hf_transfer.compare.closing import Closing
from hf_transfer.compare.execution import ranks
from hf_transfer.compare.execution.store import CellStore
from hf_transfer.compare.inputs import Inputs, load_data, load_models, named_settings, word_of
from hf_transfer.compare.outcome import ComparisonResults
from hf_transfer.compare.planning.budget import Budget, Clock
from hf_transfer.compare.planning.rates import find_rates
from hf_transfer.compare.planning.scheduling import run_comparison, run_curve
from hf_transfer.compare.problem.problem import Problem
from hf_transfer.compare.strategies import STANDARD, Strategy, strategies_for
from hf_transfer.recipe_arguments import DataArguments, LoopArguments


if TYPE_CHECKING:
    from hf_transfer.compare import Data, Model

logger = logging.get_logger(__name__)

SHARES = (0.25, 0.5)
"""Of the labelled rows, on a learning curve beside all of them."""
FEW_ROWS = 100
"""Below this many rows that validate the comparison warns of how little they can tell."""
EXAMPLE = ("embedded:image", "embedded:digits/shifted")
"""Model and data where none are given."""
OUTPUT = "outputs/compare"

__all__ = ["run"]


def run(
    model: Model | Sequence[Model] | None,
    data: Data | None,
    *,
    processor: Any,
    target: Data | None,
    teacher: Any,
    strategies: Iterable[str | Strategy] | None,
    seeds: int,
    budget: str | float | Budget | None,
    halving: bool | None,
    folds: int,
    curve: bool,
    output_dir: Any,
    args: LoopArguments | None,
    data_args: DataArguments | None,
    resume: bool,
    retry_failed: bool,
    keep_models: bool,
    model_revision: str,
    trust_remote_code: bool,
) -> ComparisonResults:
    """As [`hf_transfer.compare`], which explains it."""
    started = time.monotonic()
    if (model is None) != (data is None):
        raise ValueError(
            f"`{'model' if model is None else 'data'}` is missing: there is nothing to compare on one alone. Give "
            "both, or neither for a try on embedded data."
        )
    if seeds < 1:
        raise ValueError(f"`seeds={seeds}` trains nothing. Give 1 or more.")
    limit = None if budget is None else Budget.parse(budget)
    if model is None or data is None:
        model, data = EXAMPLE
        data_args = data_args or DataArguments(samples_per_class=10)
    folder = Path(output_dir or _own_folder(args) or OUTPUT)
    loop, data_args = CompareLoopArguments.of(args, folder), data_args or DataArguments()
    words = None if strategies is None else list(strategies)
    with ExitStack() as held:
        with loop.main_process_first(desc="loading data"):
            rows = load_data(data, data_args, loop.seed, held)
            other = None if target is None else load_data(target, data_args, loop.seed, held, target=True)
        with loop.main_process_first(desc="loading models"):
            models = load_models(
                model, rows, processor=processor, revision=model_revision, trust_remote_code=trust_remote_code
            )
            problem = Problem(
                rows,
                models,
                target=other,
                teacher=teacher,
                data_args=data_args,
                folds=folds,
                seed=loop.seed,
                seeds=seeds,
            )
        chosen = strategies_for(problem, words)
        inputs = Inputs(
            models=model,
            data=data,
            target=target,
            teacher=teacher,
            folds=folds if problem.by_folds else None,
            data_args=data_args,
            loop=loop,
        )
        store = CellStore(folder, named_settings(inputs), resume, retry_failed=retry_failed)
        first = ranks.position()[0] == 0
        ranks.check_shared_folder(folder)
        ranks.of_first(store.check_settings)
        if first:
            _warn_of_few_rows(problem, range(loop.seed, loop.seed + seeds))
        several = ranks if ranks.position()[1] > 1 else None
        clock = Clock(folder, started=started, write=first, resume=resume)
        cells, rates = _cells(
            problem, chosen, range(loop.seed, loop.seed + seeds), loop, store, limit, halving, curve, several, clock
        )
        options = {
            "target_dataset": None if target is None else word_of(target),
            "teacher_name_or_path": None if teacher is None else word_of(teacher),
            "strategies": [one if isinstance(one, str) else one.name for one in words] if words else None,
            "budget": f"{limit.seconds:g}s" if limit is not None and not isinstance(budget, str) else budget,
            "halving": halving if halving is None else str(halving).lower(),
            "seeds": seeds if seeds > 1 else None,
            "folds": folds if problem.by_folds and folds != 5 else None,
            "curve": None if curve else "false",
            "model_revision": None if model_revision == "main" else model_revision,
            "trust_remote_code": trust_remote_code,
        }
        closing = Closing(
            problem,
            {strategy.name: strategy for strategy in chosen},
            cells,
            store,
            rates,
            loop,
            clock,
            inputs=inputs,
            options=options,
            own={strategy.name for strategy in chosen if STANDARD.get(strategy.name) is not strategy},
            keep_models=keep_models,
            trust_remote_code=trust_remote_code,
        )
        results = ComparisonResults.from_json(ranks.of_first(closing.close))
    results.folder = folder
    return results


def _own_folder(args: LoopArguments | None) -> str | None:
    """That which the arguments of a loop name, if it is not their default."""
    if args is None or args.output_dir == LoopArguments.__dataclass_fields__["output_dir"].default:
        return None
    return args.output_dir


def _warn_of_few_rows(problem: Problem, seeds: Sequence[int]) -> None:
    """Say now how little few rows can tell, and not when all has run."""
    rows = len({int(row) for seed in seeds for row in problem.validation_ids(seed)})
    if rows >= FEW_ROWS or problem.regression:
        return
    # the usual interval of a difference of two accuracies of one half that agree on every other row
    width = 1.96 / (2 * rows) ** 0.5
    more = "Label more rows to validate."
    if problem.by_folds and len(seeds) < problem.folds:
        more = f"With `--seeds {problem.folds}` every labelled row validates once."
    logger.warning(
        f"{rows} rows validate: strategies whose accuracies differ by less than about {width:.2f} cannot be told "
        f"apart. {more}"
    )


def _cells(
    problem: Problem,
    strategies: Sequence[Strategy],
    seeds: Sequence[int],
    args: CompareLoopArguments,
    store: CellStore,
    budget: Budget | None,
    halving: bool | None,
    curve: bool,
    several: Any,
    clock: Clock,
) -> tuple[list[CellResult], dict[tuple[str, str], float]]:
    """All runs, those of the learning curve last, and the learning rates that they had."""
    rates = find_rates(problem, strategies, args, folder=store.folder, clock=clock, budget=budget, ranks=several)
    shared: dict[str, Any] = {"rates": rates, "budget": budget, "ranks": several, "clock": clock}
    shared["progress"] = not args.disable_tqdm
    cells = run_comparison(problem, strategies, seeds, args, store, halving=halving, **shared)
    if curve:
        leaders = _leaders(cells, strategies, f"validation_{problem.metric}", lower=problem.regression)
        own = seeds if budget is None else seeds[:1]
        cells = [*cells, *run_curve(problem, leaders, SHARES, own, args, store, **shared)] if leaders else cells
    return cells, rates


def _leaders(
    cells: Sequence[CellResult], strategies: Sequence[Strategy], score: str, *, lower: bool, most: int = 2
) -> list[tuple[str, Strategy]]:
    """The best by their means, of equals the first, and training from scratch on the model of the best."""
    by_name = {strategy.name: strategy for strategy in strategies}
    found: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        value = cell.scores.get(score)
        if cell.finished and value is not None:
            found.setdefault((cell.key.model, cell.key.strategy), []).append(-value if lower else value)
    ranked = sorted(found, key=lambda arm: -sum(found[arm]) / len(found[arm]))
    leaders = [arm for arm in ranked if not by_name[arm[1]].baseline][:most]
    trained = [arm for arm in found if by_name[arm[1]].baseline and by_name[arm[1]].rate is not None]
    leaders += [arm for arm in trained if leaders and arm[0] == leaders[0][0]]
    return [(model, by_name[name]) for model, name in leaders]
