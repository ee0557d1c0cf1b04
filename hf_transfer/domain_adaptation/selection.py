"""Which run each validator would keep, and what that costs against the best one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from hf_transfer.compare.results import Cell
from hf_transfer.validators import choose
from hf_transfer.validators.scores import NAMES as VALIDATORS


ORACLE = "oracle"
"""Chooses by the target's test labels: what no one without labels can do."""

__all__ = ["ORACLE", "VALIDATORS", "Choice", "choices", "kept_run"]


@dataclass(frozen=True)
class Choice:
    """
    What one validator chose.

    Args:
        by (`str`): the validator, or `oracle`.
        seed (`int`, *optional*): among the runs of this seed; `None` for the means over all seeds.
        method (`str`): the chosen one.
        score (`float`, *optional*): what the target's labels say of it.
        regret (`float`, *optional*): how much less that is than the oracle's choice has; 0 is the best.
    """

    by: str
    seed: int | None
    method: str
    score: float | None
    regret: float | None


def choices(cells: Iterable[Cell], candidates: Sequence[str], score: str) -> list[Choice]:
    """
    The method that each validator chooses for every seed, and over all seeds by its mean, beside the oracle's.

    Args:
        cells (`Iterable[Cell]`): finished runs.
        candidates (`Sequence[str]`): the methods to choose between.
        score (`str`): name of the score by target labels, such as `target_accuracy`; it may be in no run.

    Example:
        >>> runs = [
        ...     Cell("dann", 0, "", "", {"target_accuracy": 0.9}, {"snd": 2.0}),
        ...     Cell("mcc", 0, "", "", {"target_accuracy": 0.7}, {"snd": 3.0}),
        ... ]
        >>> made = choices(runs, ["dann", "mcc"], "target_accuracy")
        >>> [(choice.by, choice.method, choice.regret) for choice in made][:2]
        [('snd', 'mcc', 0.2), ('oracle', 'dann', 0.0)]
    """
    own = [cell for cell in cells if cell.method in candidates]
    seeds: list[int | None] = [*sorted({cell.seed for cell in own}), None]
    found: list[Choice] = []
    for seed in seeds:
        chosen = [cell for cell in own if seed is None or cell.seed == seed]
        found += _choices(chosen, candidates, score, seed)
    return found


def kept_run(cells: Iterable[Cell], candidates: Sequence[str], by: str, score: str) -> Cell:
    """
    The run whose model is kept: of the method with the best mean by a validator, the seed with the best score by it.

    Raises:
        ValueError: if no run has a score by that validator.
    """
    own = [cell for cell in cells if cell.method in candidates]
    scores = {(cell.method, cell.seed): _judged(cell, score).get(by, math.nan) for cell in own}
    methods = {method: [value for key, value in scores.items() if key[0] == method] for method in candidates}
    best = choose({method: {by: _mean(values)} for method, values in methods.items() if values}).get(by)
    if len(own) == 1 or (best is None and len({cell.method for cell in own}) == 1):
        return own[0]
    if best is None:
        raise ValueError(
            f"`--choose_by {by}` judges none of the runs: {_why(by)}. Choose by another one of "
            f"{', '.join((*VALIDATORS, ORACLE))}."
        )
    runs = {str(seed): {by: value} for (method, seed), value in scores.items() if method == best}
    seed = int(choose(runs)[by])
    return next(cell for cell in own if cell.method == best and cell.seed == seed)


def _choices(cells: Sequence[Cell], candidates: Sequence[str], score: str, seed: int | None) -> list[Choice]:
    by_method = {method: [cell for cell in cells if cell.method == method] for method in candidates}
    by_method = {method: runs for method, runs in by_method.items() if runs}
    judges = list(dict.fromkeys(name for cell in cells for name in _judged(cell, score)))
    judged = {
        method: {by: _mean([_judged(cell, score).get(by, math.nan) for cell in runs]) for by in judges}
        for method, runs in by_method.items()
    }
    chosen = choose(judged) if judged else {}
    truth = {method: scores.get(ORACLE, math.nan) for method, scores in judged.items()}
    best = truth.get(chosen.get(ORACLE, ""), math.nan)
    return [
        Choice(by, seed, method, _or_none(truth[method]), _or_none(round(best - truth[method], 12)))
        for by, method in chosen.items()
    ]


def _judged(cell: Cell, score: str) -> dict[str, float]:
    """Scores of a run by validator, and by the oracle where there are labels."""
    scores = {name: math.nan if value is None else value for name, value in cell.validators.items()}
    truth = cell.scores.get(score)
    return scores if truth is None else {**scores, ORACLE: truth}


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _why(by: str) -> str:
    return "the target has no labels to score" if by == ORACLE else "it gave no number for any"
