"""Successive halving: after every seed the better half of the strategies goes on, decided by scores alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from hf_transfer.compare.judging.row_scores import RowScores


T = TypeVar("T", bound=Hashable)

__all__ = ["better_half", "mean_scores", "survivors", "undecided"]


def better_half(scores: Mapping[T, float], order: Sequence[T]) -> list[T]:
    r"""
    The $\lceil n / 2 \rceil$ best of $n$; of equal ones those that come first in `order`.

    Args:
        scores (`Mapping[T, float]`): more is better; what has none is out.
        order (`Sequence[T]`): all of them, the cheapest first.

    Returns:
        `list[T]`: in the order of `order`; one at least, if there is any score.

    Example:
        >>> better_half({"full": 0.9, "lora": 0.9, "probe": 0.7}, ["probe", "lora", "full"])
        ['lora', 'full']
        >>> better_half({"full": 0.9, "lora": 0.9}, ["lora", "full"])
        ['lora']
    """
    scored = [name for name in order if name in scores]
    best = sorted(scored, key=lambda name: -scores[name])[: math.ceil(len(scored) / 2)]  # stable: ties stay in order
    return [name for name in scored if name in best]


def mean_scores(scores: Mapping[T, Mapping[int, float]], seeds: Sequence[int]) -> dict[T, float]:
    """
    Means over those of some seeds that there are; nothing for who has none.

    Example:
        >>> mean_scores({"full": {0: 0.5, 1: 0.75}, "lora": {1: 0.5}}, [0])
        {'full': 0.5}
    """
    found = {name: [own[seed] for seed in seeds if seed in own] for name, own in scores.items()}
    return {name: statistics.fmean(own) for name, own in found.items() if own}


def survivors(scores: Mapping[T, Mapping[int, float]], order: Sequence[T], seeds: Sequence[int]) -> list[T]:
    """
    Who goes on after some seeds: after each, the better half by the mean over the seeds so far.

    It starts from the first seed every time and needs no memory, so that an interrupted comparison decides as an
    undisturbed one.

    Args:
        scores (`Mapping[T, Mapping[int, float]]`): by seed.
        order (`Sequence[T]`): all of them, the cheapest first.
        seeds (`Sequence[int]`): that have been run, in their order.

    Example:
        >>> scores = {"a": {0: 0.9, 1: 0.6}, "b": {0: 0.8, 1: 0.8}, "c": {0: 0.7}, "d": {0: 0.1}}
        >>> survivors(scores, "abcd", [0]), survivors(scores, "abcd", [0, 1])
        (['a', 'b'], ['b'])
    """
    alive = list(order)
    for number in range(1, len(seeds) + 1):
        alive = better_half(mean_scores({name: scores.get(name, {}) for name in alive}, seeds[:number]), alive)
    return alive


def undecided(leader: Sequence[RowScores], scratch: Sequence[RowScores], *, errors: float = 2.0) -> bool:
    r"""
    Whether it is open if transfer helps: the difference of the means is within some standard errors of zero.

    $$ |\bar d| \le z \cdot \sqrt{\frac{\sum_i w_i^2 (d_i - \bar d)^2}{(\sum_i w_i)^2}} $$

    with $d_i$ the difference on row $i$ of one seed. A decision whether to spend more time; the verdict has intervals
    of its own.

    Args:
        leader (`Sequence[RowScores]`): of the best strategy, one for each seed.
        scratch (`Sequence[RowScores]`): of the model from random weights, of the same seeds and rows.
        errors (`float`, *optional*, defaults to 2.0): $z$.

    Degenerate:
        Without rows it is open. Differences that are all equal have no spread: open only if they are zero.
    """
    if not leader or not scratch:
        return True
    differences = np.concatenate([a.scores - b.scores for a, b in zip(leader, scratch, strict=False)])
    weights = np.concatenate([a.weights for a, _ in zip(leader, scratch, strict=False)])
    total = weights.sum()
    if not total > 0:
        return True
    mean = float((weights * differences).sum() / total)
    spread = math.sqrt(float((weights**2 * (differences - mean) ** 2).sum())) / float(total)
    return abs(mean) <= errors * spread
