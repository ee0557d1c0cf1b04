"""Whether scores put models in the order in which they really do, and what the choice by scores costs."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


__all__ = ["regret_at", "weighted_kendall"]


def weighted_kendall(scores: ArrayLike, truth: ArrayLike) -> float:
    r"""
    Weighted Kendall tau: agreement of two orders, in which pairs near the top count most.

    With $\langle a, b \rangle_r = \sum_{i < j} w_{ij} \operatorname{sgn}(a_i - a_j) \operatorname{sgn}(b_i - b_j)$ and
    $w_{ij} = \frac{1}{r_i + 1} + \frac{1}{r_j + 1}$, where $r_i$ is the place of $i$ from 0 for the best,

    $$ \tau_w = \frac{1}{2} \sum_{r \in \{r^s, r^t\}}
       \frac{\langle s, t \rangle_r}{\sqrt{\langle s, s \rangle_r \langle t, t \rangle_r}} $$

    the mean over $r^s$, places by the scores (equal scores by the truth), and $r^t$, places by the truth (equal
    ones by the scores). It is that of `scipy.stats.weightedtau` with its defaults, so scores and truth may be swapped.
    A pair that is tied in one of them counts neither way and lowers the largest possible value, as in Kendall's tau-b.

    Args:
        scores (array): `(M,)`, one for each model; higher is thought better.
        truth (array): `(M,)`, what the models reached, such as accuracies; higher is better.

    Shape:
        - returns a number in [-1, 1]: 1 for the same order, about 0 for an order by chance.

    Degenerate cases:
        If all scores are equal, or all of the truth, there is no order to agree with: 0 (SciPy has NaN).

    Raises:
        ValueError: if there are fewer than 2 models, the lengths differ, or a number is not finite.
        ImportError: without SciPy.

    Relations:
        [`regret_at`] says what the order costs in the unit of the truth; a high tau with a wrong first place can cost
        more than a low one with the right.

    Example:
        >>> weighted_kendall([0.1, 0.2, 0.9], [60.0, 70.0, 80.0])
        1.0
        >>> swapped_on_top = weighted_kendall([1, 2, 4, 3], [1, 2, 3, 4])
        >>> swapped_on_top < weighted_kendall([2, 1, 3, 4], [1, 2, 3, 4])
        True

    Paper: Vigna, "A Weighted Correlation Index for Rankings with Ties", WWW 2015,
    https://huggingface.co/papers/1404.3325
    """
    scores, truth = _pair(scores, truth, least=2, who="a rank correlation")
    if (scores == scores[0]).all() or (truth == truth[0]).all():
        return 0.0
    try:
        from scipy.stats import weightedtau
    except ImportError as error:
        raise ImportError(
            "`weighted_kendall` needs SciPy, which is not installed: it counts the exchanges. Run "
            '`pip install "hf-transfer-learning[recipes]"`.'
        ) from error
    found: Any = weightedtau(scores, truth)
    return min(max(float(found.statistic), -1.0), 1.0)  # rounding leaves equal orders at 1 + 2e-16


def regret_at(scores: ArrayLike, truth: ArrayLike, top: int = 1) -> float:
    r"""
    What choosing by scores costs: the best of all models minus the best of the `top` that have the highest scores.

    $$ \max_m t_m - \max_{m \in \text{top}_k(s)} t_m $$

    Args:
        scores (array): `(M,)`, one for each model; higher is thought better.
        truth (array): `(M,)`, what the models reached; higher is better.
        top (`int`, *optional*, defaults to 1): $k$, how many are tried.

    Shape:
        - returns the regret in the unit of `truth`, at least 0; 0 if the best model is among the chosen.

    Degenerate cases:
        Where equal scores leave open who is among the chosen, it is the mean over all choices, each as likely: equal
        scores for all models cost what a choice by chance costs. All of the models chosen cost nothing.

    Raises:
        ValueError: if there is no model, the lengths differ, a number is not finite, or `top` is below 1.

    Example:
        >>> regret_at([0.3, 0.9, 0.5], [80.0, 71.0, 78.0]), regret_at([0.3, 0.9, 0.5], [80.0, 71.0, 78.0], top=2)
        (9.0, 2.0)
        >>> regret_at([1, 1], [60.0, 80.0])
        10.0
    """
    scores, truth = _pair(scores, truth, least=1, who="a regret")
    if top < 1:
        raise ValueError(
            f"`top={top}`: nothing would be chosen, and nothing reached. Give the number of models that are tried, at "
            "least 1."
        )
    best = float(truth.max())
    if top >= len(scores):
        return 0.0
    limit = np.sort(scores)[-top]
    chosen, tied = truth[scores > limit], np.sort(truth[scores == limit])[::-1]
    # with a place of the tied the best of those drawn: in so many draws all others are of the worse
    ways = [comb(len(tied) - 1 - place, top - len(chosen) - 1) for place in range(len(tied))]
    costs = best - np.maximum(tied, chosen.max(initial=-np.inf))
    return float(np.average(costs, weights=np.array(ways, dtype=np.float64)))


def _pair(scores: ArrayLike, truth: ArrayLike, *, least: int, who: str) -> tuple[np.ndarray, np.ndarray]:
    found = [np.asarray(values, dtype=np.float64) for values in (scores, truth)]
    first, second = found
    if first.ndim != 1 or first.shape != second.shape or len(first) < least:
        raise ValueError(
            f"`scores` has shape {first.shape}, `truth` {second.shape}: {who} is of one score and one result for each "
            f"of at least {least} models. Pass two lists of equal length."
        )
    for name, values in zip(("scores", "truth"), found, strict=True):
        if not np.isfinite(values).all():
            raise ValueError(
                f"`{name}` holds {int((~np.isfinite(values)).sum())} numbers that are not finite: they have no place "
                "in an order. Leave out the models that have no score or no result."
            )
    return first, second
