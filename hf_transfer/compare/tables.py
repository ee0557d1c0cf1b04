"""Scores of finished runs by method and seed, as the tables of a report show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_transfer.compare.results import Cell
from hf_transfer.repeats import PairedDifference, Summary, paired_difference, summarise


__all__ = ["difference", "markdown_table", "scores_by_name", "scores_of", "told", "told_difference"]


def scores_of(cells: Sequence[Cell], method: str, name: str) -> dict[int, float]:
    """A score of a method by seed; runs without it, or in which it was not finite, are left out."""
    values = {cell.seed: {**cell.diagnostics, **cell.scores}.get(name) for cell in cells if cell.method == method}
    return {seed: value for seed, value in values.items() if value is not None}


def difference(cells: Sequence[Cell], method: str, name: str, *, against: str) -> PairedDifference | None:
    """How much better than the runs of `against` a method is, over the seeds that both have; `None` without one."""
    own, other = scores_of(cells, method, name), scores_of(cells, against, name)
    seeds = own.keys() & other.keys()
    if method == against or not seeds:
        return None
    return paired_difference({seed: own[seed] for seed in seeds}, {seed: other[seed] for seed in seeds})


def scores_by_name(cells: Sequence[Cell]) -> dict[str, Any]:
    """
    For a JSON file: mean, interval and scores by seed of every method, under its name and that of the score.

    Example:
        >>> runs = [Cell("kd", seed, "", "", {"test_accuracy": 0.5}) for seed in (0, 1)]
        >>> scores_by_name(runs)
        {'kd_test_accuracy': 0.5, 'kd_test_accuracy_interval': (0.5, 0.5), 'kd_test_accuracy_by_seed': [0.5, 0.5]}
    """
    found: dict[str, Any] = {}
    for method in dict.fromkeys(cell.method for cell in cells):
        own = [cell for cell in cells if cell.method == method]
        for name in dict.fromkeys(key for cell in own for key in {**cell.scores, **cell.diagnostics}):
            values = scores_of(cells, method, name)
            complete = len(values) == len(own)
            found[f"{method}_{name}"] = summarise(values).mean if complete else None
            if len(own) > 1:
                found[f"{method}_{name}_interval"] = summarise(values).interval if complete else None
                found[f"{method}_{name}_by_seed"] = [values.get(cell.seed) for cell in own]
    return found


def told(scores: Mapping[int, float]) -> str:
    """The mean with its interval, where there is one."""
    return _interval(summarise(scores), "{:.3f}") if scores else ""


def told_difference(gain: PairedDifference | None) -> str:
    """A difference with its interval, in bold where that excludes zero."""
    return "" if gain is None else _interval(gain, "**{:+.3f}**" if gain.excludes_zero else "{:+.3f}")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    A table in Markdown.

    Example:
        >>> print(markdown_table(["method", "score"], [["kd", "0.5"], ["dkd", ""]]))
        | method | score |
        |---|---|
        | kd | 0.5 |
        | dkd | |
    """
    lines = ["|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in [header, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def _interval(summary: Summary, form: str) -> str:
    mean = form.format(summary.mean)
    if summary.interval is None:
        return mean
    return f"{mean} ({summary.interval[0]:.3f} to {summary.interval[1]:.3f})"
