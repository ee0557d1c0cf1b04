"""`PairSampler`: pairs of rows for contrastive fine-tuning, numbered and drawn without ever listing them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hf_transfer.data.sampling import EpochSampler
from hf_transfer.few_shot.draws import mixed
from hf_transfer.few_shot.labels import class_labels
from hf_transfer.functional.task_loss import UNLABELLED


_ROUNDS = 6

__all__ = ["PairSampler"]


class PairSampler(EpochSampler):
    r"""
    Row numbers two by two: a pair of one class, a pair of two classes, and so on in turn.

    No row is paired with itself, and no pair comes twice before all of its kind were seen, over all epochs. Each of
    the $\sum_c n_c (n_c - 1) / 2$ pairs of one class has a number, and so has each pair of two classes; a
    pseudo-random permutation of the numbers, computed for one number at a time, gives the order. Memory is that of
    the pairs of one epoch, however many there could be.

    Args:
        labels (`datasets.Dataset`, array, tensor or sequence):
            The class of every row: integers or names; of a data set its column `labels` or `label`. Rows of -100 are
            left out.
        pairs_per_row (`int`, *optional*, defaults to 10):
            Pairs in an epoch for each labelled row, of both kinds together.
        seed (`int`, *optional*, defaults to 0):
            Seed of the order; not negative.

    Raises:
        ValueError: if there are fewer than two classes, no class has two rows, `pairs_per_row` is below 1, or the
            seed is negative.

    Example:
        >>> sampler = PairSampler([0, 0, 1], pairs_per_row=2)
        >>> rows = list(sampler)
        >>> len(rows), sorted(rows[:2])  # 6 pairs; the first of them is the only one of one class
        (12, [0, 1])
    """

    def __init__(self, labels: Any, *, pairs_per_row: int = 10, seed: int = 0) -> None:
        super().__init__(seed)
        labels, _ = class_labels(labels)
        if pairs_per_row < 1:
            raise ValueError(
                f"`pairs_per_row={pairs_per_row}`: an epoch would hold no pair, and nothing would be learned. Give 1 "
                "or more, such as the default 10."
            )
        rows = np.flatnonzero(labels != UNLABELLED)
        classes, counts = np.unique(labels[rows], return_counts=True)
        if len(classes) < 2 or counts.max() < 2:
            what = f"{len(classes)} classes" if len(classes) < 2 else "one row of each class"
            raise ValueError(
                f"The data have {what} among {len(rows)} labelled rows: pairs of one class and of different classes "
                "are needed, and one kind alone would draw all rows together or apart. Give two classes or more, and "
                "two rows or more of at least one of them."
            )
        # The rows class by class; the pair of places i < j stands for both orders.
        self._rows = rows[np.argsort(labels[rows], kind="stable")]
        ends = np.cumsum(counts)
        self._starts = ends - counts
        self._alike = np.cumsum(counts * (counts - 1) // 2)
        self._ends = np.repeat(ends, counts)  # of the class of each place: its partners of other classes come behind
        self._different = np.cumsum(len(rows) - self._ends)
        self._each = -(-pairs_per_row * len(rows) // 2)

    @property
    def num_pairs(self) -> tuple[int, int]:
        """How many different pairs there are, of one class and of two."""
        return int(self._alike[-1]), int(self._different[-1])

    def __len__(self) -> int:
        return 4 * self._each

    def __iter__(self) -> Iterator[int]:
        kinds = [
            decode(self._drawn(number, size))
            for number, (size, decode) in enumerate(zip(self.num_pairs, (self._same, self._other), strict=True))
        ]
        places = np.stack([np.stack(pair, 1) for pair in kinds], 1)
        return iter(self._rows[places.reshape(-1)].tolist())

    def _drawn(self, kind: int, size: int) -> np.ndarray:
        """The numbers of this epoch's pairs of a kind: they go on where those of the epoch before ended."""
        position = self.epoch * self._each + np.arange(self._each, dtype=np.int64)
        key = np.random.default_rng([self.seed, kind]).integers(0, 2**63, _ROUNDS, dtype=np.uint64)
        return permuted(position % size, size, key, position // size)

    def _same(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        group = np.searchsorted(self._alike, numbers, side="right")
        rest = numbers - np.concatenate([[0], self._alike])[group]
        # 0: (0, 1), 1: (0, 2), 2: (1, 2), 3: (0, 3), ...; the root is rounded, so one step either way is checked
        high = ((1 + np.sqrt(1 + 8 * rest.astype(np.float64))) / 2).astype(np.int64)
        high -= high * (high - 1) // 2 > rest
        high += high * (high + 1) // 2 <= rest
        start = self._starts[group]
        return start + rest - high * (high - 1) // 2, start + high

    def _other(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.searchsorted(self._different, numbers, side="right")
        rest = numbers - np.concatenate([[0], self._different])[place]
        return place, self._ends[place] + rest


def permuted(numbers: np.ndarray, size: int, key: np.ndarray, tweak: np.ndarray) -> np.ndarray:
    """
    The place of each number in a pseudo-random permutation of `range(size)`, without making the others.

    A Feistel network permutes the next power of four; what falls outside of the range goes through it again, until it
    is inside, which keeps it a permutation.

    Args:
        numbers (`np.ndarray`): `(N,)` int64 in `[0, size)`.
        size (`int`): how many numbers there are.
        key (`np.ndarray`): `(rounds,)` uint64, chooses the permutation.
        tweak (`np.ndarray`): `(N,)` int64, a further choice for each number.

    Example:
        >>> key = np.arange(6, dtype=np.uint64)
        >>> sorted(permuted(np.arange(5), 5, key, np.zeros(5, np.int64)).tolist())
        [0, 1, 2, 3, 4]
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    values, outside = numbers.astype(np.uint64), np.ones(len(numbers), dtype=bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for round_key in key:
            left, right = right, left ^ (mixed(round_key, tweak[outside], right) & mask)
        values[outside] = (left << half) | right
        outside[outside] = values[outside] >= size
    return values.astype(np.int64)
