"""From finished runs on disk to the answer: scores of rows, mean costs, reasons and notes by strategy."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from hf_transfer.compare.answer import Answer, Difference
from hf_transfer.compare.cells import FAILED, SKIPPED, TEST, VALIDATION, CellResult, Costs
from hf_transfer.compare.execution.store import CellStore
from hf_transfer.compare.judging.answering import answer
from hf_transfer.compare.judging.differences import Key, differences
from hf_transfer.compare.judging.row_scores import RowScores, row_scores
from hf_transfer.compare.strategies import Strategy


__all__ = ["answer_of_runs", "gains", "mean_costs"]


def answer_of_runs(
    cells: Sequence[CellResult],
    store: CellStore,
    strategies: Mapping[str, Strategy],
    *,
    label_names: Sequence[str],
    regression: bool,
    commands: Mapping[Key, str],
    seed: int,
) -> Answer:
    """
    The answer of a comparison.

    Args:
        cells (`Sequence[CellResult]`): all runs, those of the learning curve too.
        store (`CellStore`): where their predictions lie.
        strategies (`Mapping[str, Strategy]`): by name.
        label_names (`Sequence[str]`): of the classes.
        regression (`bool`): whether labels are real values.
        commands (`Mapping[tuple[str, str], str]`): that run a strategy alone.
        seed (`int`): of the bootstrap.
    """
    whole = [cell for cell in cells if cell.key.share == 1.0]
    points: dict[tuple[str, str, float], tuple[int, dict[int, RowScores]]] = {}
    for cell, scores in _scored(cells, store, VALIDATION, regression):
        where = (cell.key.model, cell.key.strategy, cell.key.share)
        points.setdefault(where, (cell.rows, {}))[1][cell.key.seed] = scores
    drawn = {where[:2] for where in points if where[2] < 1}
    return answer(
        _by_key(_scored(whole, store, VALIDATION, regression)),
        _by_key(_scored(whole, store, TEST, regression)),
        {key: mean_costs(own) for key, own in _groups(whole).items()},
        baselines=[name for name, strategy in strategies.items() if strategy.baseline],
        reasons={key: reason for key, own in _groups(whole).items() if (reason := _reason(own))},
        statuses={key: _status(own) for key, own in _groups(whole).items()},
        curve={where: point for where, point in points.items() if where[:2] in drawn},
        label_names=label_names,
        commands=commands,
        notes={key: _note(own) for key, own in _groups(whole).items()},
        seed=seed,
    )


def gains(
    cells: Sequence[CellResult], store: CellStore, key: Key, others: Sequence[str], regression: bool
) -> dict[str, Difference]:
    """
    How much better a strategy validates than others on the same base model, each pair for itself.

    Args:
        cells (`Sequence[CellResult]`): all runs.
        store (`CellStore`): where their predictions lie.
        key (`tuple[str, str]`): label of the model, and name of the strategy.
        others (`Sequence[str]`): names of the others; those without a run are left out.
        regression (`bool`): whether labels are real values.
    """
    runs = _by_key(_scored([cell for cell in cells if cell.key.share == 1.0], store, VALIDATION, regression))
    pairs = [(key, (key[0], other)) for other in others if (key[0], other) in runs]
    return {pair[1][1]: gain for pair, gain in differences(runs, pairs, familywise=False).items()}


def mean_costs(cells: Iterable[CellResult]) -> Costs:
    """
    Costs of the finished ones of several runs, each the mean of those that have it.

    Example:
        >>> from hf_transfer.compare.cells import CellKey
        >>> runs = [CellResult(CellKey("m", "full", s), "f", costs=Costs(1.0 + s, bytes=8)) for s in (0, 1)]
        >>> mean_costs(runs)
        Costs(seconds=1.5, peak_memory_bytes=None, trained_parameters=0, parameters=None, bytes=8, latency_ms=None)
    """
    found: dict[str, Any] = {}
    for own in fields(Costs):
        values = [getattr(cell.costs, own.name) for cell in _finished(cells)]
        values = [value for value in values if value is not None]
        if values:
            mean = statistics.fmean(values)
            found[own.name] = round(mean) if isinstance(values[0], int) else mean
    return Costs(**found)


def _scored(
    cells: Iterable[CellResult], store: CellStore, split: str, regression: bool
) -> list[tuple[CellResult, RowScores]]:
    """Scores of the rows of a split, of finished runs that have such rows."""
    said = [(cell, store.predictions(cell.key, split)) for cell in _finished(cells)]
    return [(cell, row_scores(own, regression=regression)) for cell, own in said if own is not None]


def _by_key(scored: Iterable[tuple[CellResult, RowScores]]) -> dict[Key, dict[int, RowScores]]:
    found: dict[Key, dict[int, RowScores]] = {}
    for cell, own in scored:
        found.setdefault((cell.key.model, cell.key.strategy), {})[cell.key.seed] = own
    return found


def _groups(cells: Iterable[CellResult]) -> dict[Key, list[CellResult]]:
    found: dict[Key, list[CellResult]] = {}
    for cell in cells:
        found.setdefault((cell.key.model, cell.key.strategy), []).append(cell)
    return found


def _finished(cells: Iterable[CellResult]) -> list[CellResult]:
    return [cell for cell in cells if cell.finished]


def _status(cells: Sequence[CellResult]) -> str:
    """Of a strategy none of whose runs is finished."""
    return FAILED if any(cell.status == FAILED for cell in cells) else SKIPPED


def _reason(cells: Sequence[CellResult]) -> str | None:
    """Why runs are missing: of those that failed first."""
    missing = [cell for cell in cells if not cell.finished and cell.reason]
    return next((cell.reason for cell in sorted(missing, key=lambda cell: cell.status != FAILED)), None)


def _note(cells: Sequence[CellResult]) -> str:
    return "; ".join(dict.fromkeys(cell.note for cell in cells if cell.note))
