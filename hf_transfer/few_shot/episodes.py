"""Episodes: small classification problems drawn from labelled rows, each a function of seed and number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_transfer.few_shot.draws import distinct, mixed
from hf_transfer.few_shot.labels import class_labels


__all__ = ["EpisodeRows", "Episodes"]


@dataclass(frozen=True)
class EpisodeRows:
    """
    Rows of `E` episodes, class by class: the first `k_shot` rows of the support are those of the episode's class 0.

    Args:
        support (`np.ndarray`): `(E, n_way * k_shot)` row numbers, whose labels a method may see.
        query (`np.ndarray`): `(E, n_way * queries)` row numbers, which it is to classify; none is in the support.
        classes (`np.ndarray`): `(E, n_way)`, the number in the data of the episode's class 0, 1, ...
    """

    support: np.ndarray
    query: np.ndarray
    classes: np.ndarray

    @property
    def support_labels(self) -> np.ndarray:
        """`(n_way * k_shot,)`, classes of the support within the episode, 0 to `n_way - 1`, alike in all episodes."""
        return self._within(self.support)

    @property
    def query_labels(self) -> np.ndarray:
        """`(n_way * queries,)`, classes of the query rows within the episode."""
        return self._within(self.query)

    def _within(self, rows: np.ndarray) -> np.ndarray:
        ways = self.classes.shape[1]
        return np.repeat(np.arange(ways), rows.shape[1] // ways)


class Episodes:
    """
    Draws n-way k-shot episodes from labelled rows.

    An episode has `n_way` classes in random order, and of each `k_shot + queries` different rows. Which ones is a
    function of labels, seed and the episode's number: any number can be drawn by itself, on any rank, in any order.

    Args:
        labels (`datasets.Dataset`, array, tensor or sequence):
            The class of every row: integers or names; of a data set its column `labels` or `label`. Rows of -100 are
            never drawn.
        n_way (`int`, *optional*, defaults to 5):
            Classes of an episode, at least 2.
        k_shot (`int`, *optional*, defaults to 1):
            Support rows of each class.
        queries (`int`, *optional*, defaults to 15):
            Query rows of each class.
        seed (`int`, *optional*, defaults to 0):
            Of all episodes; not negative.
        label_names (`Sequence[str]`, *optional*):
            Names of the classes by number, for messages; by default those of the data set.

    Raises:
        ValueError: if there are fewer classes than `n_way`, a class has fewer rows than `k_shot + queries`, a number
            is too small, or the labels are not one class a row.

    Example:
        >>> rows = Episodes([0, 0, 0, 1, 1, 1, 2, 2, 2], n_way=2, k_shot=1, queries=2).draw(range(4))
        >>> rows.support.shape, rows.query.shape, rows.classes.shape
        ((4, 2), (4, 4), (4, 2))
        >>> rows.query_labels
        array([0, 0, 1, 1])
    """

    def __init__(
        self,
        labels: Any,
        *,
        n_way: int = 5,
        k_shot: int = 1,
        queries: int = 15,
        seed: int = 0,
        label_names: Sequence[str] | None = None,
    ) -> None:
        for name, value, least in (("n_way", n_way, 2), ("k_shot", k_shot, 1), ("queries", queries, 1)):
            if value < least:
                raise ValueError(
                    f"`{name}={value}`: an episode tells at least two classes apart, from one row of each, on one row "
                    f"of each. Pass {least} or more."
                )
        if seed < 0:
            raise ValueError(f"`seed={seed}` is negative: seeds count from 0. Pass 0 or a positive number.")
        numbers, names = class_labels(labels)
        self.n_way, self.k_shot, self.queries, self.seed = n_way, k_shot, queries, seed
        self.names = tuple(label_names or names)
        labelled = np.flatnonzero(numbers >= 0)
        self.classes, counts = np.unique(numbers[labelled], return_counts=True)
        if len(self.classes) < n_way:
            raise ValueError(
                f"The labelled rows are of {len(self.classes)} classes, an episode has `n_way={n_way}`: there are not "
                f"enough to draw from. Pass `n_way={len(self.classes)}` or less, or rows of more classes."
            )
        self._check_sizes(counts)
        # rows sorted by class: those of class c begin at start[c]
        self._rows = labelled[np.argsort(numbers[labelled], kind="stable")]
        self._sizes, self._starts = counts, np.cumsum(counts) - counts

    @property
    def size(self) -> int:
        """Rows of an episode, support and query together."""
        return self.n_way * (self.k_shot + self.queries)

    @property
    def labelled(self) -> int:
        """Number of rows that may be drawn."""
        return len(self._rows)

    def draw(self, numbers: Iterable[int]) -> EpisodeRows:
        """The episodes of these numbers (0, 1, ...)."""
        numbers = np.asarray(numbers if isinstance(numbers, np.ndarray) else list(numbers), dtype=np.int64)
        keys = mixed(self.seed, numbers)
        ways = distinct(keys, np.full(len(keys), len(self.classes)), self.n_way)
        keys = mixed(keys[:, None], 1 + np.arange(self.n_way))
        each = self.k_shot + self.queries
        places = distinct(keys.reshape(-1), self._sizes[ways].reshape(-1), each)
        places += self._starts[ways].reshape(-1, 1)
        rows = self._rows[places].reshape(len(numbers), self.n_way, each)
        return EpisodeRows(
            np.ascontiguousarray(rows[:, :, : self.k_shot]).reshape(len(numbers), self.n_way * self.k_shot),
            np.ascontiguousarray(rows[:, :, self.k_shot :]).reshape(len(numbers), self.n_way * self.queries),
            self.classes[ways],
        )

    def _check_sizes(self, counts: np.ndarray) -> None:
        each = self.k_shot + self.queries
        short = [(self.classes[at], counts[at]) for at in np.flatnonzero(counts < each)]
        if not short:
            return
        named = ", ".join(f"{self._name(number)} ({count} rows)" for number, count in short[:5])
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        raise ValueError(
            f"An episode takes {each} rows of a class (`k_shot={self.k_shot}`, `queries={self.queries}`), but these "
            f"have fewer: {named}{more}. A row cannot be both support and query. Lower `queries` or `k_shot`, or "
            "leave these classes out."
        )

    def _name(self, number: int) -> str:
        return f"`{self.names[number]}`" if number < len(self.names) else f"class {number}"
