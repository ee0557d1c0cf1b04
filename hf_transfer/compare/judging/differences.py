"""Means of strategies and differences of pairs of them, with intervals over rows and seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from typing import Any, TypeVar

import numpy as np

from hf_transfer.compare.answer import Difference, Estimate
from hf_transfer.compare.judging.row_scores import RowScores
from hf_transfer.functional.bootstrap import paired_intervals


Key = tuple[str, str]
"""Label of a base model and name of a strategy."""

Runs = Mapping[Key, Mapping[int, RowScores]]
"""Scores of the rows by strategy and seed."""

K = TypeVar("K")

__all__ = ["Key", "Runs", "class_differences", "common_seeds", "differences", "estimates", "mean"]


def mean(runs: Runs, key: Key, seeds: Sequence[int] | None = None) -> float:
    """
    The score of a strategy: the mean over seeds of the weighted means over rows.

    Example:
        >>> half = RowScores(np.arange(2), np.array([1.0, 0.0]), np.ones(2))
        >>> mean({("m", "full"): {0: half}}, ("m", "full"))
        0.5
    """
    own = runs[key]
    return float(np.mean([own[seed].mean for seed in sorted(own if seeds is None else seeds)]))


def common_seeds(runs: Runs, first: Key, second: Key) -> list[int]:
    """Seeds that both strategies have, in order."""
    return sorted(set(runs.get(first, {})) & set(runs.get(second, {})))


def estimates(runs: Mapping[K, Mapping[int, RowScores]], *, seed: int = 0) -> dict[K, Estimate]:
    """
    The mean of every strategy with its 95% interval, each for itself.

    Args:
        runs (`Runs`): strategies by their runs; those without a run are left out.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Degenerate:
        Fewer than two rows say nothing of the spread: no interval. With one seed the interval is of that model on
        other rows. What would leave the range of an accuracy is cut off at its ends.

    Example:
        >>> scores = RowScores(np.arange(40), np.arange(40) % 4 > 0, np.ones(40))
        >>> found = estimates({("m", "full"): {0: scores}})["m", "full"]
        >>> found.mean, 0.5 < found.low < 0.7 < 0.8 < found.high < 1
        (0.75, True)
    """
    columns = [(key, s, run) for key, own in runs.items() for s, run in own.items() if _counts(run)]
    keys = sorted({key for key, _, _ in columns}, key=repr)
    found = _intervals(columns, [(key, None) for key in keys], familywise=False, seed=seed)
    return {key: Estimate(*ends) for (key, _), ends in found.items()}


def differences(
    runs: Mapping[K, Mapping[int, RowScores]],
    pairs: Sequence[tuple[K, K]],
    *,
    familywise: bool = True,
    family: Collection[tuple[K, K]] | None = None,
    seed: int = 0,
) -> dict[tuple[K, K], Difference]:
    """
    How much better the first of each pair is than the second, on the rows and seeds that both have.

    Args:
        runs (`Runs`): of the strategies in the pairs, at least.
        pairs (`Sequence[tuple[K, K]]`): what to compare.
        familywise (`bool`, *optional*, defaults to `True`): whether the 95% holds for all pairs together, so that a
            pair may be picked by its scores.
        family (`Collection[tuple[K, K]]`, *optional*): the pairs for which it is to hold together, by default all;
            the others lend their spread over seeds.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Degenerate:
        Pairs without a common seed are left out. In a seed, rows that not all of its runs have count for none. A pair
        with one row has no interval.

    Example:
        >>> rows, ones = np.arange(40), np.ones(40)
        >>> better, worse = RowScores(rows, ones, ones), RowScores(rows, rows % 2, ones)
        >>> runs = {("m", "full"): {0: better}, ("m", "scratch"): {0: worse}}
        >>> found = differences(runs, [(("m", "full"), ("m", "scratch"))])
        >>> [(pair.mean, pair.decided) for pair in found.values()]
        [(0.5, True)]
    """
    named = {key for pair in pairs for key in pair}
    columns = _on_common_rows([(key, s, run) for key in runs if key in named for s, run in runs[key].items()])
    there = {(key, s) for key, s, _ in columns}
    seeds = sorted({s for _, s, _ in columns})
    paired = [pair for pair in pairs if any((pair[0], s) in there and (pair[1], s) in there for s in seeds)]
    together = [place for place, pair in enumerate(paired) if family is None or pair in family]
    found = _intervals(columns, paired, familywise=familywise, family=together or None, seed=seed)
    return {pair: Difference(*found[pair]) for pair in paired}


def class_differences(
    runs: Runs, first: Key, second: Key, classes: Sequence[int], *, seed: int = 0
) -> dict[int, Difference]:
    """
    The difference in recall, class by class; the 95% holds for all classes together.

    Args:
        runs (`Runs`): of both strategies, at least, with labels.
        first (`Key`): the strategy that may be better.
        second (`Key`): the one it is compared with.
        classes (`Sequence[int]`): numbers of the classes to compare.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Degenerate:
        Classes without a row in a common seed are left out, and seeds without a row of a class for that class.
    """
    columns = []
    both = [(key, s, runs[key][s]) for key in (first, second) for s in common_seeds(runs, first, second)]
    for key, s, run in _on_common_rows(both):
        for number in classes if run.labels is not None else ():
            part = _rows_of(run, run.labels == number)
            if _counts(part):
                columns.append(((key, number), s, part))
    there = {key for key, _, _ in columns}
    pairs = [((first, c), (second, c)) for c in classes if (first, c) in there and (second, c) in there]
    found = _intervals(columns, pairs, familywise=True, seed=seed)
    return {pair[0][1]: Difference(*found[pair]) for pair in pairs}


def _counts(run: RowScores) -> bool:
    return bool((run.weights > 0).any())


def _rows_of(run: RowScores, chosen: np.ndarray) -> RowScores:
    labels = None if run.labels is None else run.labels[chosen]
    return RowScores(run.ids[chosen], run.scores[chosen], run.weights[chosen], labels)


def _on_common_rows(columns: list[Any]) -> list[Any]:
    """Of every seed the rows that all its runs have; seeds without one are left out."""
    kept: dict[int, np.ndarray] = {}
    for seed in {s for _, s, _ in columns}:
        ids = [run.ids[run.weights > 0] for _, s, run in columns if s == seed]
        kept[seed] = reduce(np.intersect1d, ids)
    return [(key, s, _rows_of(run, np.isin(run.ids, kept[s]))) for key, s, run in columns if len(kept[s])]


def _intervals(
    columns: list[Any], pairs: list[Any], *, familywise: bool, family: Sequence[int] | None = None, seed: int
) -> dict[Any, Any]:
    """Mean and ends of all pairs of the keys of `columns`, which are keys, seeds and scores of rows."""
    if not pairs:
        return {}
    # in an order of their own: the draws must not depend on which run was finished first
    columns = sorted(columns, key=lambda column: (repr(column[0]), column[1]))
    ids = np.unique(np.concatenate([run.ids for _, _, run in columns]))
    scores, weights = np.zeros((len(ids), len(columns))), np.zeros((len(ids), len(columns)))
    for column, (key, s, run) in enumerate(columns):
        if len(np.unique(run.ids)) != len(run.ids):
            raise ValueError(
                f"Two rows of the run of {key} with seed {s} have the same number: runs could not be paired by it. "
                "Number the rows of a split by their place in it."
            )
        places = np.searchsorted(ids, run.ids)
        scores[places, column], weights[places, column] = run.scores, run.weights
    numbers = {key: number for number, key in enumerate(dict.fromkeys(key for key, _, _ in columns))}
    found = paired_intervals(
        scores,
        weights,
        [numbers[key] for key, _, _ in columns],
        [s for _, s, _ in columns],
        [(numbers[first], None if second is None else numbers[second]) for first, second in pairs],
        familywise=familywise,
        family=family,
        random_state=seed,
    )
    rows: dict[Any, np.ndarray] = {}
    for column, (key, _, _) in enumerate(columns):
        rows[key] = rows.get(key, np.zeros(len(ids), dtype=bool)) | (weights[:, column] > 0)
    shares = all(run.scores.min() >= 0 and run.scores.max() <= 1 for _, _, run in columns if len(run.scores))
    low, high = found.low, found.high
    if shares:  # an accuracy lies between 0 and 1, and so does what is said of it
        least = np.array([0.0 if second is None else -1.0 for _, second in pairs])
        low, high = np.maximum(low, least), np.minimum(high, 1.0)
    ends = zip(pairs, found.mean, low, high, strict=True)
    return {
        pair: tuple(map(_number, (middle, low, high))) if rows[pair[0]].sum() > 1 else (_number(middle), None, None)
        for pair, middle, low, high in ends
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
