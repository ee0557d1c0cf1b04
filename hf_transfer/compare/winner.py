"""The model of the recommended strategy: found or trained once more, put into the output folder with its card."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from transformers.utils import logging

from hf_transfer.compare.answer import Answer, Difference, Estimate, TableRow
from hf_transfer.compare.cells import VALIDATION, CellResult
from hf_transfer.compare.execution.running import run_cell
from hf_transfer.compare.execution.store import CellStore
from hf_transfer.compare.judging.row_scores import row_scores
from hf_transfer.compare.keeping import keep_model
from hf_transfer.compare.planning.pilots import with_rate
from hf_transfer.compare.strategies.strategy import Strategy
from hf_transfer.compare.tables import markdown_table
from hf_transfer.files import whole_file
from hf_transfer.model_card.facts import Baseline, RunFacts, Score
from hf_transfer.recipe_arguments import LoopArguments
from hf_transfer.trainer import TransferTrainer


if TYPE_CHECKING:
    from hf_transfer.compare.problem.problem import Problem

logger = logging.get_logger(__name__)

FINAL = "final"
"""Folder of the winner's training on all rows, where folds validated."""
RECORD = "_winner.json"
"""What was put into the output folder. Its name begins with an underscore, so that it is not pushed."""

__all__ = ["best_cell", "clear_winner", "keep_winner", "tell_of_winner", "trained_winner"]


def best_cell(
    cells: Sequence[CellResult], store: CellStore, model: str, strategy: str, *, regression: bool
) -> CellResult:
    """
    The run of a strategy that validates best, of equals the first seed.

    Args:
        cells (`Sequence[CellResult]`): of the table.
        store (`CellStore`): where they lie.
        model, strategy (`str`): label of the base model, and name.
        regression (`bool`): whether labels are real values.
    """

    def score(cell: CellResult) -> float:
        said = store.predictions(cell.key, VALIDATION)
        return -float("inf") if said is None else row_scores(said, regression=regression).mean

    own = [cell for cell in cells if cell.finished and (cell.key.model, cell.key.strategy) == (model, strategy)]
    return max((cell for cell in own if cell.key.share == 1.0), key=lambda cell: (score(cell), -cell.key.seed))


def trained_winner(
    problem: Problem,
    strategy: Strategy,
    cell: CellResult,
    args: LoopArguments,
    store: CellStore,
    rate: float | None,
) -> tuple[Path | None, CellResult]:
    """
    The folder of the winner's model, and the run that made it: the one given; or where folds validated, or its model
    was not kept, one like it that trains on all rows.

    Args:
        problem (`Problem`): models and rows.
        strategy (`Strategy`): the recommended one.
        cell (`CellResult`): its best run.
        args (`LoopArguments`): of a run.
        store (`CellStore`): of the runs.
        rate (`float`, *optional*): learning rate of the strategy.

    Returns:
        `tuple[Path | None, CellResult]`: no folder if that training failed; the run then says why.
    """
    found = store.model_folder(cell.key)
    if found is not None and not problem.by_folds:
        return found, cell
    final = CellStore(store.folder / FINAL, store.settings, retry_failed=True)
    digest = f"{cell.fingerprint} on all rows"
    made = final.find(cell.key, digest)
    if made is None or final.model_folder(cell.key) is None:
        logger.info(f"{strategy.label} is trained once more with seed {cell.key.seed}, on all labelled rows.")
        setup = problem.setup(cell.key, with_rate(args, rate), full=True)
        made = run_cell(cell.key, strategy, setup, final, fingerprint=digest)
    return final.model_folder(cell.key), made


def keep_winner(
    folder: Path,
    problem: Problem,
    args: LoopArguments,
    *,
    trust_remote_code: bool = False,
    base_model: nn.Module | None = None,
) -> TransferTrainer:
    """
    Put a model or adapter into the output folder, in place of that of an earlier comparison.

    Args:
        folder (`Path`): where it lies.
        problem (`Problem`): what it was trained for.
        args (`LoopArguments`): of the comparison; it is left alone.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether to run code from the model's repository.
        base_model (`nn.Module`, *optional*): what an adapter is put on, where that is in memory.

    Returns:
        `TransferTrainer`: of the model, with the facts of its run.
    """
    clear_winner(args)
    own = args.for_run(str(args.output_dir), args.seed)
    own.push_to_hub, own.hub_token = args.push_to_hub, args.hub_token
    place = Path(str(args.output_dir))
    before = _files(place)
    trainer = keep_model(folder, problem.data, own, trust_remote_code=trust_remote_code, base_model=base_model)
    with whole_file(place / RECORD) as unfinished:
        unfinished.write_text(json.dumps(sorted(_files(place) - before)), encoding="utf-8")
    return trainer


def clear_winner(args: LoopArguments) -> None:
    """Remove the model that an earlier call put into the output folder: a whole one and an adapter do not mix."""
    place = Path(str(args.output_dir))
    record = place / RECORD
    if not record.is_file():
        return
    for name in json.loads(record.read_text(encoding="utf-8")):
        (place / Path(name).name).unlink(missing_ok=True)
    record.unlink()


def tell_of_winner(
    facts: RunFacts,
    answer: Answer,
    row: TableRow,
    kept: CellResult,
    runs: Sequence[CellResult],
    metric: str,
    *,
    gains: Mapping[str, Difference],
    titles: Mapping[str, str],
) -> None:
    """
    Put the scores and the table of a comparison into the facts of its winner.

    Args:
        facts (`RunFacts`): of its run; changed.
        answer (`Answer`): of the comparison.
        row (`TableRow`): of the recommended strategy.
        kept (`CellResult`): the run whose model was kept.
        runs (`Sequence[CellResult]`): all finished runs of the strategy, by seed.
        metric (`str`): the main score, such as `accuracy`.
        gains (`Mapping[str, Difference]`): to the baselines, by name.
        titles (`Mapping[str, str]`): of strategies, by name.
    """
    facts.method, facts.seeds, facts.scores = row.strategy, list(row.seeds), []
    facts.add_scores({name: value for name, value in kept.scores.items() if value is not None})
    facts.scores = [_over_seeds(own, row, runs, metric) for own in facts.scores]
    facts.baselines = []
    for name, gain in gains.items():
        other = next(other for other in answer.rows if (other.model, other.strategy) == (row.model, name))
        if other.validation is not None:
            mean, ends = _parts(other.validation)
            facts.baselines.append(Baseline(name, Score(metric, mean, VALIDATION, mean, ends), *_parts(gain)))
    facts.comparison = _table(answer.rows, metric, titles)
    if answer.recommendation is not None:
        chosen = f"It was chosen among {len(answer.rows)} strategies on the same rows."
        facts.strategy = [*facts.strategy, f"{chosen} {answer.recommendation.reason}"]
    facts.notes = [*facts.notes, answer.verdict.sentence]


def _over_seeds(score: Score, row: TableRow, runs: Sequence[CellResult], metric: str) -> Score:
    values = [value for cell in runs if (value := cell.scores.get(f"{score.split}_{score.metric}")) is not None]
    if len(values) < 2:
        return score
    estimate = getattr(row, score.split, None) if score.metric == metric else None
    interval = None if estimate is None else _parts(estimate)[1]
    return replace(score, mean=statistics.fmean(values), interval=interval, by_seed=values)


def _parts(estimate: Estimate) -> tuple[float, tuple[float, float] | None]:
    ends = None if estimate.low is None or estimate.high is None else (estimate.low, estimate.high)
    return estimate.mean, ends


def _table(rows: Sequence[TableRow], metric: str, titles: Mapping[str, str]) -> str:
    several = len({row.model for row in rows}) > 1
    header = [
        *(["model"] if several else []),
        "strategy",
        f"validation {metric}",
        f"test {metric}",
        "seeds",
        "seconds",
    ]
    lines = [
        [
            *([row.model] if several else []),
            titles.get(row.strategy, row.strategy),
            _told(row.validation) or (row.reason or row.status),
            _told(row.test),
            str(len(row.seeds)),
            f"{row.costs.seconds:.1f}" if row.seeds else "",
        ]
        for row in rows
    ]
    return markdown_table(header, lines)


def _told(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    ends = "" if estimate.low is None else f" ({estimate.low:.3f} to {estimate.high:.3f})"
    return f"{estimate.mean:.3f}{ends}"


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
