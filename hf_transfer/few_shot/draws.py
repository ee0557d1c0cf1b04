"""Random draws without replacement as a function of keys: many at once, each the same in whatever company."""

from __future__ import annotations

import numpy as np


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

__all__ = ["distinct", "mixed"]


def mixed(*parts: np.ndarray | int) -> np.ndarray:
    """
    One pseudo-random uint64 for each combination of integers, which are broadcast (SplitMix64 in a chain).

    Example:
        >>> mixed(0, np.arange(3)).tolist() == [mixed(0, number).item() for number in range(3)]
        True
    """
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        for part in parts:
            state = (state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def distinct(keys: np.ndarray, sizes: np.ndarray, count: int) -> np.ndarray:
    r"""
    For every key, `count` different numbers below its size in random order; all ordered choices are equally likely.

    Floyd's algorithm, over all keys at once: number $j = N - m, ..., N - 1$ draws $t \in \{0, ..., j\}$ and takes
    $j$ itself where $t$ is taken already. The set is uniform, its order is not: it is then shuffled.

    Args:
        keys (`np.ndarray`): `(R,)` uint64.
        sizes (`np.ndarray`): `(R,)` integers $N$ from `count` to $2^{32}$.
        count (`int`): $m$.

    Returns:
        `np.ndarray`: `(R, count)` int64.
    """
    chosen = np.empty((len(keys), count), dtype=np.int64)
    draws = mixed(keys[:, None], np.arange(2 * count)[None, :])
    for position in range(count):
        last = sizes.astype(np.int64) - count + position
        # the upper half of a draw as a fraction of 2^32; the bias is below N / 2^32
        high = (draws[:, position] >> np.uint64(32)) * (last + 1).astype(np.uint64)
        number = (high >> np.uint64(32)).astype(np.int64)
        taken = (chosen[:, :position] == number[:, None]).any(axis=1)
        chosen[:, position] = np.where(taken, last, number)
    order = np.argsort(draws[:, count:], axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)
