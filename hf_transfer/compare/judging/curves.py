"""The learning curve, and what more labels or another strategy would likely bring."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hf_transfer.compare.answer import CurvePoint, Difference
from hf_transfer.compare.judging.differences import Key, differences, estimates
from hf_transfer.compare.judging.recommending import Standing
from hf_transfer.compare.judging.row_scores import RowScores
from hf_transfer.compare.judging.wording import figure, with_interval


CurveKey = tuple[str, str, float]
"""Label of a base model, name of a strategy, share of the labelled rows."""

Curve = Mapping[CurveKey, tuple[int, Mapping[int, RowScores]]]
"""Number of labelled training rows and scores of the validation rows by seed, for every point."""

__all__ = ["Curve", "CurveKey", "curve_points", "more_labels", "other_strategies"]


def curve_points(curve: Curve, *, seed: int = 0) -> list[CurvePoint]:
    """
    The points of the learning curves with their 95% intervals, each for itself.

    Args:
        curve (`Curve`): points with at least one finished run; others are left out.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Example:
        >>> import numpy as np
        >>> run = RowScores(np.arange(40), np.arange(40) % 4 > 0, np.ones(40))
        >>> points = curve_points({("m", "full", 1.0): (100, {0: run}), ("m", "full", 0.5): (50, {0: run})})
        >>> [(point.share, point.rows, point.score.mean) for point in points]
        [(0.5, 50, 0.75), (1.0, 100, 0.75)]
    """
    found = estimates({key: runs for key, (_, runs) in curve.items()}, seed=seed)
    return [CurvePoint(*key, rows=curve[key][0], score=found[key]) for key in sorted(found)]


def more_labels(curve: Curve, key: Key, *, name: str | None = None, seed: int = 0) -> str:
    r"""
    What twice as many labels would likely bring, by the last part of the curve that at least doubles them.

    A gain from $n_0$ to $n_1$ rows counts $\ln 2 / \ln(n_1 / n_0)$ of it for one doubling. Curves flatten, so that
    gain is called an upper bound. Where it cannot be told from zero nothing is promised.

    Args:
        curve (`Curve`): points of the strategy, at least.
        key (`Key`): the strategy.
        name (`str`, *optional*): what it is called.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Returns:
        `str`: a sentence; an empty one where the curve has no two points to compare.
    """
    points = sorted((point for point, (_, runs) in curve.items() if point[:2] == key and runs), key=lambda p: p[2])
    if len(points) < 2:
        return ""
    last = points[-1]
    most = curve[last][0]
    before = [point for point in points[:-1] if 0 < curve[point][0] < most]
    if not before:
        return ""
    # the latest that is a doubling away, up to rounding; else the widest there is
    doubled = [point for point in before if 1.9 * curve[point][0] <= most]
    first = doubled[-1] if doubled else before[0]
    fewer = curve[first][0]
    runs = {point: curve[point][1] for point in (first, last)}
    pair = differences(runs, [(last, first)], seed=seed).get((last, first))  # type: ignore[list-item]
    if pair is None:
        return ""
    name = name or key[1]
    step = f"from {fewer} to {most} labelled rows {name} gained {with_interval(pair)}"
    suffix = "" if min(map(len, runs.values())) > 1 else " (one seed, which says nothing of others)"
    if not pair.decided:
        return f"Undecided: {step}{suffix}, which cannot be told from nothing; no gain by more labels is promised."
    if pair.mean < 0:
        return f"More labels did not help: {step}{suffix}."
    scale = math.log(2) / math.log(most / fewer)
    ends = Difference(*(scale * end for end in (pair.mean, pair.low, pair.high) if end is not None))
    return f"Twice as many labels would likely bring {figure(ends.mean)} or less: {step}{suffix}."


def other_strategies(found: Standing, chosen: Key | None) -> str:
    """
    What the next best strategy would bring in place of the recommended one, by the table.

    Args:
        found (`Standing`): of the strategies.
        chosen (`Key`, *optional*): the recommended one; by default the leader.
    """
    chosen = chosen or found.leader
    if chosen is None or len(found.candidates) < 2:
        return ""
    leader = found.leader
    assert leader is not None
    if chosen != leader:
        return (
            f"{found.name(leader)} has the best mean; {found.name(chosen)} differs from it by "
            f"{with_interval(found.against_best[chosen])}, which cannot be told from nothing."
        )
    second = found.second
    if second is None:
        return ""
    apart = found.against_best[second]
    said = f"The second best, {found.name(second)}, differs from {found.name(leader)} by {with_interval(apart)}"
    return f"{said}, {'so others bring less' if apart.decided else 'which cannot be told from nothing'}."
