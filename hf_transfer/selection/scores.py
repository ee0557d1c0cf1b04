"""The scores of a candidate: which there are, what each needs, and how sure it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from hf_transfer.selection.held_out import KNN, PROBE
from hf_transfer.selection.reading import CandidateRows
from hf_transfer.selection.target import TargetRows


FORMULAS: dict[str, tuple[str, str, bool]] = {
    "logme": ("evidence", "features", True),
    "leep": ("label_transfer", "source_probabilities", False),
    "nleep": ("label_transfer", "features", False),
    "nce": ("label_transfer", "source_labels", False),
    "h_score": ("h_score", "features", False),
    "transrate": ("coding_rate", "features", False),
    "gbc": ("class_overlap", "features", False),
    "parc": ("sample_distances", "features", True),
    "sfda": ("discriminants", "features", False),
    "etran": ("discriminants", "features", True),
}
"""By name: module of `hf_transfer.functional`, what it is a function of, and whether it is defined for real values."""

SCORES = (PROBE, KNN, *FORMULAS)
"""All scores, in the order of tables."""

_TAKES_REGRESSION = ("logme", "etran")
_CONFIDENCE = 0.95

__all__ = ["FORMULAS", "SCORES", "Score", "check_scores", "formula_scores", "paired_spread", "undefined"]


@dataclass(frozen=True)
class Score:
    """
    A score of a candidate; more is better.

    Args:
        value (`float`, *optional*): None where it is not defined.
        low (`float`, *optional*): lower end of its 95% interval.
        high (`float`, *optional*): upper end.
        reason (`str`, *optional*): why it is not defined.
        draws (`tuple[float | None, ...]`): on the random parts of the rows, which are the same for all candidates.
        seconds (`float`): that it took, with the interval.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    draws: tuple[float | None, ...] = field(default=(), repr=False)
    seconds: float = 0.0


def check_scores(scores: Sequence[str] | None, by: str) -> tuple[str, ...]:
    """
    The scores to compute, in the order of tables: those named, those that are always shown, and that to rank by.

    Raises:
        ValueError: if there is no such score.

    Example:
        >>> check_scores(["logme"], "probe")
        ('probe', 'knn', 'logme')
    """
    wanted = SCORES if scores is None else [scores] if isinstance(scores, str) else list(scores)
    unknown = [name for name in [*wanted, by] if name not in SCORES]
    if unknown:
        raise ValueError(
            f"There is no score `{unknown[0]}`: nothing would be ranked by it. Choose from {', '.join(SCORES)}."
        )
    return tuple(name for name in SCORES if name in {*wanted, by, PROBE, KNN})


def formula_scores(
    rows: CandidateRows, features: np.ndarray, target: TargetRows, names: Sequence[str], *, seed: int = 0
) -> dict[str, Score]:
    r"""
    Scores in closed form, with intervals from random parts of the rows.

    On $S$ parts of $b$ of $n$ examples, drawn without replacement, the score is $\theta_s$; its squared error is that
    of the delete-$d$ jackknife with $d = n - b$,

    $$ V = \frac{b}{n - b} \frac{1}{S - 1} \sum_s (\theta_s - \bar\theta)^2 $$

    and the interval $\theta \pm t_{S - 1} \sqrt V$. It is approximate: a score that depends on the number of rows,
    as most do, varies otherwise on fewer.

    Args:
        rows (`CandidateRows`): of the candidate.
        features (`np.ndarray`): `(R, D)`, those of the layers to judge by.
        target (`TargetRows`): with the random parts.
        names (`Sequence[str]`): keys of `FORMULAS`.
        seed (`int`, *optional*, defaults to 0): of scores that draw.

    Degenerate cases:
        A score that cannot be computed has a reason in place of a value; on a part, no draw. With fewer than five
        draws there is no interval.

    Paper: Shao and Wu, "A General Theory for Jackknife Variance Estimation", Annals of Statistics 1989,
    https://doi.org/10.1214/aos/1176347263
    """
    inputs: dict[str, Any] = {"features": features.astype(np.float64)}
    if rows.source_logits is not None:
        shifted = rows.source_logits - rows.source_logits.max(1, keepdims=True)
        inputs["source_probabilities"] = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
        inputs["source_labels"] = rows.source_logits.argmax(1)
    parts = [np.flatnonzero(np.isin(rows.examples, draw)) for draw in target.draws]
    found = {}
    for name in names:
        why = undefined(name, target) or ("" if FORMULAS[name][1] in inputs else rows.no_source)
        if why:
            found[name] = Score(reason=why)
            continue
        started = time.perf_counter()
        function = _function(name, target.kind == "regression", seed)
        given = inputs[FORMULAS[name][1]]
        value, why = _tried(function, given, rows.labels)
        draws = () if value is None else tuple(_tried(function, given[part], rows.labels[part])[0] for part in parts)
        half = None if value is None else _half_width(draws, target)
        low, high = (None, None) if value is None or half is None else (value - half, value + half)
        found[name] = Score(value, low, high, why, draws, time.perf_counter() - started)
    return found


def undefined(name: str, target: TargetRows) -> str:
    """Why a score is not defined for the task of a target; empty where it is."""
    if name in FORMULAS and target.kind == "regression" and not FORMULAS[name][2]:
        return "it needs classes, and the labels are real values"
    return ""


def paired_spread(
    first: Score, second: Score, target_size: int, part_sizes: Sequence[int], *, family: int = 1
) -> tuple[float, float, float] | None:
    """
    The difference of two candidates by one formula score with its interval, by the draws that both have: on the same
    random parts. With `family` pairs the 95% holds for all together (Bonferroni). None without an interval.
    """
    if first.value is None or second.value is None or not first.draws or not second.draws:
        return None
    both = [None if a is None or b is None else a - b for a, b in zip(first.draws, second.draws, strict=True)]
    half = _jackknife(both, part_sizes, target_size, 1 - (1 - _CONFIDENCE) / family)
    middle = first.value - second.value
    return None if half is None else (middle, middle - half, middle + half)


def _half_width(draws: Sequence[float | None], target: TargetRows) -> float | None:
    return _jackknife(draws, [len(draw) for draw in target.draws], len(target), _CONFIDENCE)


def _jackknife(draws: Sequence[float | None], sizes: Sequence[int], total: int, confidence: float) -> float | None:
    from scipy.stats import t

    kept = [(value, size) for value, size in zip(draws, sizes, strict=True) if value is not None and size < total]
    if len(kept) < 5:
        return None
    values, count = np.array([value for value, _ in kept]), float(np.mean([size for _, size in kept]))
    variance = count / (total - count) * values.var(ddof=1)
    return float(t.ppf((1 + confidence) / 2, len(kept) - 1) * math.sqrt(variance))


def _function(name: str, regression: bool, seed: int) -> Callable[[Any, Any], float]:
    module = import_module(f"hf_transfer.functional.{FORMULAS[name][0]}")
    function = getattr(module, name)
    options: Mapping[str, Any] = {}
    if regression and name in _TAKES_REGRESSION:
        options = {"regression": True}
    elif name == "nleep":
        options = {"seed": seed}
    return lambda given, labels: function(given, labels, **options)


def _tried(function: Callable[[Any, Any], float], given: np.ndarray, labels: np.ndarray) -> tuple[float | None, str]:
    try:
        value = float(function(given, labels))
    except (ValueError, np.linalg.LinAlgError) as error:
        return None, str(error).splitlines()[0]
    if not math.isfinite(value):
        return None, f"it is {value} on these rows"
    return value, ""
