"""Which labelled rows train and which validate in a run, and which are a share of them: by class, by seed, nested."""

from __future__ import annotations

import numpy as np


__all__ = ["fold_numbers", "nested_share"]


def fold_numbers(strata: np.ndarray, folds: int, *, seed: int) -> np.ndarray:
    """
    The fold of every row, `(N,)` int64: each class is dealt out evenly, and so are all rows.

    Args:
        strata (`np.ndarray`): `(N,)` class numbers; all equal where rows have no single class.
        folds (`int`): how many.
        seed (`int`): of the cut.

    Example:
        >>> cut = fold_numbers(np.array([0, 0, 0, 1, 1, 1]), 3, seed=0)
        >>> sorted(cut[:3].tolist()), sorted(cut[3:].tolist())
        ([0, 1, 2], [0, 1, 2])
    """
    random = np.random.default_rng(seed)
    found = np.empty(len(strata), dtype=np.int64)
    dealt = 0
    for number in np.unique(strata):
        rows = random.permutation(np.flatnonzero(strata == number))
        # each class goes on where the one before ended, so that the folds are of one size too
        found[rows] = (dealt + np.arange(len(rows))) % folds
        dealt += len(rows)
    return found


def nested_share(strata: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """
    Numbers of the rows of a share, ascending: the same share of every class, at least one row of each.

    The rows of a smaller share are among those of a larger one.

    Args:
        strata (`np.ndarray`): `(N,)` class numbers; all equal where rows have no single class.
        share (`float`): in (0, 1].
        seed (`int`): of the choice.

    Raises:
        ValueError: if the share is not in (0, 1].

    Example:
        >>> quarter, half = (nested_share(np.repeat([0, 1], 8), share, seed=0) for share in (0.25, 0.5))
        >>> len(quarter), len(half), set(quarter) < set(half)
        (4, 8, True)
    """
    if not 0 < share <= 1:
        raise ValueError(
            f"A share of {share} of the labelled rows: it leaves none, or asks for more than there are. Give a number "
            "above 0 and at most 1, such as 0.5."
        )
    random = np.random.default_rng(seed)
    chosen = []
    for number in np.unique(strata):
        rows = random.permutation(np.flatnonzero(strata == number))
        chosen.append(rows[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)
