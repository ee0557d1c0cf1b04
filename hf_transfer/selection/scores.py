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

ETRAN = "etran"
"""The score that compares candidates: of each its energy and its fit are kept; see [`with_combined_etran`]."""

NOT_TELLING = "not telling"
"""How the reason of a score begins that would be the same for any labels."""

_DISCRIMINANTS = ("sfda", ETRAN)
_CONFIDENCE = 0.95

__all__ = [
    "ETRAN",
    "FORMULAS",
    "NOT_TELLING",
    "SCORES",
    "Score",
    "check_scores",
    "formula_scores",
    "half_width",
    "not_telling",
    "paired_spread",
    "undefined",
]


@dataclass(frozen=True)
class Score:
    """
    A score of a candidate; more is better.

    Args:
        value (`float`, *optional*): None where it is not defined.
        low (`float`, *optional*): lower end of its 95% interval.
        high (`float`, *optional*): upper end.
        reason (`str`, *optional*): why it is not defined, or has no interval.
        draws (`tuple[float | None, ...]`): on the random parts of the rows, which are the same for all candidates.
        terms (`tuple[float, float]`, *optional*): energy and fit, of ETran.
        drawn_terms (`tuple[tuple[float, float] | None, ...]`): the same on the random parts.
        seconds (`float`): that it took, with the interval.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    draws: tuple[float | None, ...] = field(default=(), repr=False)
    terms: tuple[float, float] | None = None
    drawn_terms: tuple[tuple[float, float] | None, ...] = field(default=(), repr=False)
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
        draws there is no interval: for SFDA and ETran where the parts have fewer rows than columns and classes.

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
        value, why = _tried(name, function, given, rows.labels)
        if value is None:
            found[name] = Score(reason=why)
            continue
        tried = [_tried(name, function, given[part], rows.labels[part]) for part in parts]
        drawn = tuple(one for one, _ in tried)
        why = next((why for _, why in tried if why), "")
        seconds = time.perf_counter() - started
        if isinstance(value, tuple):  # what all candidates are needed for follows in `with_combined_etran`
            found[name] = Score(reason=why, terms=value, drawn_terms=drawn, seconds=seconds)
            continue
        half = half_width(drawn, [len(draw) for draw in target.draws], len(target))
        low, high = (None, None) if half is None else (value - half, value + half)
        found[name] = Score(value, low, high, why if half is None else "", drawn, seconds=seconds)
    return found


def undefined(name: str, target: TargetRows) -> str:
    """Why a score is not defined for the task of a target; empty where it is."""
    if name in FORMULAS and target.kind == "regression" and not FORMULAS[name][2]:
        return "it needs classes, and the labels are real values"
    return ""


def not_telling(features: np.ndarray, labels: np.ndarray) -> str:
    """
    Why SFDA and the class score of ETran tell nothing of these rows; empty where they do.

    With `C` classes the rows within them have `N - C` directions. With no more of these than columns, `D`, a linear
    discriminant tells the classes apart without an error, whichever they are.

    Args:
        features (`np.ndarray`): `(N, D)`.
        labels (`np.ndarray`): `(N,)` classes.

    Example:
        >>> not_telling(np.zeros((12, 16)), np.arange(12) % 3)
        'not telling: fewer rows (12) than columns and classes (16 + 3), so that it is near 1 for any labels'
        >>> not_telling(np.zeros((90, 16)), np.arange(90) % 3)
        ''
    """
    (rows, columns), classes = features.shape, len(np.unique(labels))
    if rows > columns + classes:
        return ""
    few = "fewer" if rows < columns + classes else "no more"
    return (
        f"{NOT_TELLING}: {few} rows ({rows:,}) than columns and classes ({columns:,} + {classes:,}), so that it "
        "is near 1 for any labels"
    )


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


def half_width(draws: Sequence[float | None], part_sizes: Sequence[int], target_size: int) -> float | None:
    """Half the 95% interval of [`formula_scores`], by draws on random parts; None where these are too few."""
    return _jackknife(draws, part_sizes, target_size, _CONFIDENCE)


def _jackknife(draws: Sequence[float | None], sizes: Sequence[int], total: int, confidence: float) -> float | None:
    from scipy.stats import t

    kept = [(value, size) for value, size in zip(draws, sizes, strict=True) if value is not None and size < total]
    if len(kept) < 5:
        return None
    values, count = np.array([value for value, _ in kept]), float(np.mean([size for _, size in kept]))
    variance = count / (total - count) * values.var(ddof=1)
    return float(t.ppf((1 + confidence) / 2, len(kept) - 1) * math.sqrt(variance))


def _function(name: str, regression: bool, seed: int) -> Callable[[Any, Any], Any]:
    module = import_module(f"hf_transfer.functional.{FORMULAS[name][0]}")
    if name == ETRAN:
        fit = module.regression_score if regression else module.class_score
        return lambda given, labels: (module.energy(given), fit(given, labels))
    function = getattr(module, name)
    options: Mapping[str, Any] = {}
    if name == "logme":
        options = {"regression": regression}
    elif name == "nleep":
        options = {"seed": seed}
    return lambda given, labels: function(given, labels, **options)


def _tried(name: str, function: Callable[[Any, Any], Any], given: np.ndarray, labels: np.ndarray) -> tuple[Any, str]:
    """A number, or the two terms of ETran; or why there are none."""
    if name in _DISCRIMINANTS and labels.dtype.kind != "f" and (why := not_telling(given, labels)):
        return None, why
    try:
        value = function(given, labels)
    except (ValueError, np.linalg.LinAlgError) as error:
        return None, str(error).splitlines()[0]
    if not np.isfinite(value).all():
        return None, f"it is {value} on these rows"
    return value, ""
