"""Seeded selection of rows: stratified validation splits, k-shot subsets, random subsets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_transfer.data.columns import listed


def stratified_split(
    labels: np.ndarray, fraction: float, *, seed: int, names: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """
    Row numbers of a training and a validation part; every class gives the same fraction to the second, at least one
    row, and keeps at least one.

    Args:
        labels (`np.ndarray`):
            One class number per row; all equal for a split without strata.
        fraction (`float`):
            Share of the rows for validation, between 0 and 1.
        seed (`int`):
            Seed of the choice.
        names (`Sequence[str]`, *optional*):
            Names of the classes, for the error.

    Raises:
        ValueError: if the fraction is not between 0 and 1, or a class has one row only, which cannot be in both parts.

    Example:
        >>> train, held_out = stratified_split(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, seed=0)
        >>> len(train), len(held_out)
        (6, 2)
    """
    if not 0 < fraction < 1:
        raise ValueError(
            f"validation_fraction={fraction} is not between 0 and 1; it is the share of the training rows that is "
            "held out. Pass for instance 0.1."
        )
    numbers, counts = np.unique(labels, return_counts=True)
    single = [names[number] if number < len(names) else str(number) for number in numbers[counts < 2]]
    if single:
        raise ValueError(
            f"validation_fraction={fraction}: {len(single)} of {len(numbers)} classes have one row only "
            f"({listed(single[:5])}), which cannot both be trained on and validate. A validation without a class says "
            "nothing of it. Add rows, drop these classes, or pass `eval_split`."
        )
    random = np.random.default_rng(seed)
    held_out = []
    for number in numbers:
        rows = random.permutation(np.flatnonzero(labels == number))
        held_out.append(rows[: min(max(round(fraction * len(rows)), 1), len(rows) - 1)])
    chosen = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def samples_per_class(labels: np.ndarray, count: int, names: Sequence[str], *, seed: int) -> np.ndarray:
    """
    Row numbers of `count` random rows of every class, in random order.

    Raises:
        ValueError: if `count` is not positive, or a class has fewer rows.

    Example:
        >>> np.sort(samples_per_class(np.array([0, 1, 0, 1]), 2, ["no", "yes"], seed=0))
        array([0, 1, 2, 3])
    """
    if count < 1:
        raise ValueError(f"samples_per_class={count} leaves no row to train on. Pass 1 or more.")
    random = np.random.default_rng(seed)
    chosen = []
    for number, name in enumerate(names):
        rows = np.flatnonzero(labels == number)
        if len(rows) < count:
            raise ValueError(
                f"samples_per_class={count}, but class `{name}` has {len(rows)} rows; an unbalanced subset would not "
                f"be a {count}-shot problem. Pass at most {len(rows)}, or drop the class."
            )
        chosen.append(random.permutation(rows)[:count])
    return random.permutation(np.concatenate(chosen))


def random_rows(rows: int, count: int, *, seed: int) -> np.ndarray:
    """
    `count` row numbers of `rows`, in random order: the first rows of a file sorted by class would be one class.

    Raises:
        ValueError: if `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"A subset of {count} rows was asked for, which leaves nothing. Pass 1 or more, or None.")
    return np.random.default_rng(seed).permutation(rows)[:count]
