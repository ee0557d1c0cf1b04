"""The rows of two domains as arrays that can be compared, from feature data sets or arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_transfer.features.probes.labelled_rows import read_features


__all__ = ["DomainRows", "check_finite", "drawn", "read_domains", "split_examples"]


@dataclass(frozen=True)
class DomainRows:
    """
    The rows of one domain.

    Args:
        features (`np.ndarray`): `(N, D)`, of the type in which they were stored.
        groups (`np.ndarray`, *optional*): `(N,)`, one number for the rows of one example: its tokens, or its views.
    """

    features: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def examples(self) -> np.ndarray:
        """`(N,)`: the number of each row's example, from 0 on."""
        if self.groups is None:
            return np.arange(len(self))
        return np.unique(self.groups, return_inverse=True)[1]

    def take(self, rows: np.ndarray) -> DomainRows:
        """The rows of these numbers."""
        return DomainRows(self.features[rows], None if self.groups is None else self.groups[rows])

    def one_per_example(self, generator: np.random.Generator) -> DomainRows:
        """One row of each example at random, so that rows are independent of each other."""
        if self.groups is None:
            return self
        order = generator.permutation(len(self))
        return self.take(np.sort(order[np.unique(self.groups[order], return_index=True)[1]]))


def read_domains(
    source: Any, target: Any, *, column: str = "features", who: str, least: int = 2
) -> tuple[DomainRows, DomainRows]:
    """
    Source and target as rows of one width.

    Args:
        source (`datasets.Dataset`, array or list of arrays): what `extract_features` returns, or `(N, D)`; for tokens
            `(N, T, D)` or a list of `(T, D)`.
        target (`datasets.Dataset`, array or list of arrays): the same of the other domain.
        column (`str`): which features of a data set.
        who (`str`): what they are read for, for messages.
        least (`int`): fewest examples of each domain.

    Raises:
        ValueError: if the widths differ, there are too few examples, or a number is not finite.
    """
    domains = [_rows(features, column) for features in (source, target)]
    widths = [rows.features.shape[1] for rows in domains]
    if widths[0] != widths[1]:
        raise ValueError(
            f"The source has features of width {widths[0]}, the target of width {widths[1]}: they are of two models "
            "or layers, and a distance between them means nothing. Extract both with one model and the same taps."
        )
    for name, rows in zip(("source", "target"), domains, strict=True):
        examples = int(rows.examples.max(initial=-1)) + 1
        if examples < least:
            raise ValueError(
                f"The {name} has {examples} examples: {who} needs at least {least} of each domain, and is rough below "
                "some hundred. Give more rows."
            )
        check_finite(rows.features, name)
    return domains[0], domains[1]


def check_finite(features: np.ndarray, name: str) -> None:
    """
    Refuse features that are not finite.

    Raises:
        ValueError: as said.
    """
    bad = int((~np.isfinite(features)).any(1).sum())
    if bad:
        raise ValueError(
            f"{bad} rows of the {name} hold numbers that are not finite: every distance to them would be NaN. Extract "
            "them in float32, or look for the inputs that the model answers with NaN."
        )


def drawn(rows: int, most: int | None, generator: np.random.Generator) -> np.ndarray:
    """Numbers of at most `most` of `rows` rows, drawn without replacement, in their order."""
    if most is None or rows <= most:
        return np.arange(rows)
    return np.sort(generator.permutation(rows)[:most])


def split_examples(
    examples: np.ndarray, held_out: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """
    The numbers of the rows of two parts that share no example, with at least two examples each.

    Args:
        examples (`np.ndarray`): `(N,)`, the number of each row's example; at least 4 of them.
        held_out (`float`): share of the examples in the second part.
        generator (`np.random.Generator`): what draws them.

    Raises:
        ValueError: if `held_out` is not in (0, 1).
    """
    if not 0 < held_out < 1:
        raise ValueError(
            f"`held_out={held_out}` is outside (0, 1): at the ends nothing is left to fit or to measure. Give a share "
            "such as 0.5."
        )
    count = int(examples.max()) + 1
    held = np.zeros(count, bool)
    held[generator.permutation(count)[: min(max(round(held_out * count), 2), count - 2)]] = True
    return np.flatnonzero(~held[examples]), np.flatnonzero(held[examples])


def _rows(features: Any, column: str) -> DomainRows:
    table, sizes, groups = read_features(features, column=column)
    if sizes is not None:
        groups = np.repeat(np.arange(len(sizes)), sizes)
    return DomainRows(table, groups)
