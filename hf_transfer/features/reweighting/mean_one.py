"""Ratios made into weights of mean 1, and how many rows such weights leave."""

from __future__ import annotations

import numpy as np
from transformers.utils import logging


logger = logging.get_logger(__name__)

_SMALL_SHARE = 0.1  # of the rows: below, an effective sample size is warned of
_FEW = 0.01  # of the rows, at least one: these must not
_MOST = 0.5  # carry this share of the weight

__all__ = ["as_weights", "effective_sample_size", "report"]


def as_weights(ratio: np.ndarray, *, clip: float | None = None) -> np.ndarray:
    """
    Ratios `(N,)` as weights of mean 1, in float64; all 1 where no ratio is above 0.

    Args:
        ratio (`np.ndarray`): `(N,)`, 0 or more.
        clip (`float`, *optional*): quantile in (0, 1] at which the ratios are cut off before.

    Raises:
        ValueError: if `clip` is out of range.

    Example:
        >>> as_weights(np.array([1.0, 3.0])).tolist()
        [0.5, 1.5]
        >>> as_weights(np.array([1.0, 1.0, 1.0, 9.0]), clip=0.5).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    if clip is not None and not 0 < clip <= 1:
        raise ValueError(
            f"`clip={clip}` is no quantile: it says which share of the rows keeps its weight, and the others are cut "
            "down to the largest of these. Give a number in (0, 1], such as 0.99, or None to cut nothing."
        )
    ratio = np.asarray(ratio, np.float64)
    if clip is not None:
        ratio = np.minimum(ratio, np.quantile(ratio, clip))
    largest = ratio.max(initial=0)
    if not largest > 0:
        return np.ones_like(ratio)
    ratio = ratio / largest  # the sum of huge ones would overflow
    return ratio / ratio.mean()


def effective_sample_size(weights: np.ndarray) -> float:
    r"""
    $(\sum_i w_i)^2 / \sum_i w_i^2$: as many rows of equal weight give a mean of the same variance.

    Example:
        >>> effective_sample_size(np.array([1.0, 1.0, 0.0, 0.0]))
        2.0
    """
    weights = np.asarray(weights, np.float64)
    squares = np.square(weights).sum()
    return float(np.square(weights.sum()) / squares) if squares > 0 else 0.0


def report(weights: np.ndarray, method: str) -> float:
    """Log the effective sample size, and warn where it is under 10% or 1% of the rows carry half of the weight."""
    size, rows = effective_sample_size(weights), len(weights)
    few = max(1, int(rows * _FEW))
    share = float(np.sort(weights)[-few:].sum() / max(weights.sum(), np.finfo(np.float64).tiny))
    logger.info(
        f"Weights by {method}: effective sample size {size:.1f} of {rows} rows, largest weight {max(weights):.3g}."
    )
    if size < _SMALL_SHARE * rows:
        logger.warning(
            f"Weights by {method} leave an effective sample size of {size:.1f} of {rows} rows: training sees little "
            "else, and its variance grows by as much. Lower `clip`, take fewer or coarser features, or another method."
        )
    elif rows >= 10 and share > _MOST:
        logger.warning(
            f"Weights by {method}: {few} of {rows} rows carry {share:.0%} of the weight, and training will repeat "
            "them. Look at these rows, or lower `clip`."
        )
    return size
