"""How far the data of one or several sources are from the target's, in the features of one model."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_transfer.diagnostics.a_distance import ADistance, proxy_a_distance
from hf_transfer.diagnostics.discrepancy import MMDTest, mmd_test
from hf_transfer.diagnostics.domain_rows import DomainRows, drawn, read_domains
from hf_transfer.diagnostics.plot import projected
from hf_transfer.functional.frechet import frechet_distance
from hf_transfer.selection.distance_figure import draw_distances
from hf_transfer.selection.task_embeddings import task_distance, task_embedding


_MMD_ROWS = 1000  # time and memory grow with the square
_DIVISIONS = 5

__all__ = ["DomainDistance", "checked_domains", "domain_distance", "measured"]


@dataclass(frozen=True)
class DomainDistance:
    """
    How far two domains are apart; made by [`domain_distance`].

    Args:
        a_distance ([`ADistance`]): proxy A-distance: 0 if a linear classifier cannot tell the domains apart, 2 if it
            always can.
        mmd ([`MMDTest`]): unbiased squared discrepancy: about 0 for equal domains, with the p-value of that.
        frechet (`float`): squared Frechet distance, in squared units of the features.
        frechet_by_chance (`float`): what it is on average where the same rows are divided at random: equal domains.
        task (`float`, *optional*): distance of the task embeddings in [0, 1]: 0 if features inform the classes of
            both alike; `None` unless both domains have labels.
        frechet_rows (`tuple[int, int]`): rows of source and target that the Frechet distance is of.
        width (`int`): of the features.
        projection (`tuple`, *optional*): both domains in two dimensions, for the figure.

    Example:
        >>> far = ADistance(1.5, (1.3, 1.7), error=0.125, raw=1.5, train_rows=80, held_out_rows=80, strength=0.1)
        >>> test = MMDTest(0.02, 0.001, 999, 0.004, (0.5, 1.0), 90, 80, 200, 80)
        >>> print(DomainDistance(far, test, 31.5, 2.25, 0.125, (200, 80), 64))
        proxy A-distance 1.500 (95% interval 1.300 to 1.700; domain told wrongly for 12.5% of 2 x 80 held-out rows)
        MMD^2 0.02000 (p = 0.001 by 999 permutations, 95% of them below 0.00400; 90 of 200 source and 80 target rows)
        Frechet distance 31.5 (2.25 between random parts of the same rows; 200 source and 80 target rows)
        task embedding distance 0.125 (0: features inform the classes of both alike; 1: no common one does)
    """

    a_distance: ADistance
    mmd: MMDTest
    frechet: float
    frechet_by_chance: float
    task: float | None
    frechet_rows: tuple[int, int]
    width: int
    projection: tuple[np.ndarray, np.ndarray, np.ndarray, list[str]] | None = field(
        default=None, repr=False, compare=False
    )

    def __str__(self) -> str:
        source, target = self.frechet_rows
        lines = [
            str(self.a_distance),
            str(self.mmd),
            f"Frechet distance {self.frechet:.4g} ({self.frechet_by_chance:.4g} between random parts of the same "
            f"rows; {source} source and {target} target rows)",
        ]
        if self.task is not None:
            meaning = "0: features inform the classes of both alike; 1: no common one does"
            lines.append(f"task embedding distance {self.task:.3f} ({meaning})")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, float | int | None]:
        """The numbers by name, as JSON holds them."""
        low, high = self.a_distance.interval
        return {
            "a_distance": self.a_distance.distance,
            "a_distance_low": low,
            "a_distance_high": high,
            "mmd": self.mmd.mmd,
            "mmd_p_value": self.mmd.p_value,
            "mmd_by_chance": self.mmd.quantile,
            "frechet": self.frechet,
            "frechet_by_chance": self.frechet_by_chance,
            "task": self.task,
            "width": self.width,
        }

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """
        Draw both domains in two dimensions, and the distances beside, each with what zero means and what chance gives.

        Args:
            path (`str` or `os.PathLike`): the file; its suffix is the format: `.png`, `.svg` or `.pdf`.

        Raises:
            ImportError: without matplotlib.
            ValueError: if the distance was not made by [`domain_distance`], or the format is unknown.
        """
        if self.projection is None:
            raise ValueError(
                "The distance holds no rows, so there is nothing to draw: it was not made by `domain_distance`, or "
                "with `figure=False`. Call `domain_distance(source_features, target_features)` again."
            )
        return draw_distances(self, path)


def domain_distance(
    source_features: Any,
    target_features: Any,
    *,
    source_labels: Any = None,
    target_labels: Any = None,
    column: str = "features",
    seed: int = 0,
    max_rows: int = 2000,
    figure: bool = True,
) -> DomainDistance:
    """
    How far the data of a source are from the target's, by four distances in the features of one model.

    The proxy A-distance asks whether a linear classifier tells the domains apart, MMD whether anything does by more
    than chance, the Frechet distance how far means and covariances are, and the task embedding whether features inform
    the classes of both alike. None of them is the loss that transfer will bring: they order sources, and show what
    kind of shift there is.

    Args:
        source_features (`datasets.Dataset`, array or list of arrays):
            What `extract_features` returns, or `(N, D)`; for tokens `(N, T, D)` or a list of `(T, D)`.
        target_features (`datasets.Dataset`, array or list of arrays):
            The same of the target, by the same model.
        source_labels (array, *optional*):
            Class numbers; columns of labels are never read. -100 marks what has no label. The classes may be others
            than the target's.
        target_labels (array, *optional*):
            The same of the target. The task embedding needs the labels of both.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set.
        seed (`int`, *optional*, defaults to 0):
            Of all draws.
        max_rows (`int`, *optional*, defaults to 2000):
            Most rows of each domain, drawn at random if there are more; for the MMD at most 1000.
        figure (`bool`, *optional*, defaults to `True`):
            Whether to keep what `plot` draws: two numbers for each row.

    Shape:
        - source: `(N, D)`, target: `(M, D)`; at least 4 rows of each.
        - returns [`DomainDistance`].

    Degenerate cases:
        Constant features are at distance 0. For few rows and many dimensions the Frechet distance is large by chance:
        see `frechet_by_chance`, the mean of 5 random divisions of the rows of both.

    Raises:
        ValueError: if the widths differ, there are too few rows, a feature is not finite, or labels are of one class.
        ImportError: without scikit-learn.

    Relations:
        [`compare_domains`] sorts several sources. [`class_shift`] shows which classes differ, [`domain_bound`] what
        the A-distance says about the error.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> source, target = generator.normal(size=(2, 80, 4))
        >>> near, far = domain_distance(source, target), domain_distance(source, target + 3)
        >>> near.mmd.p_value > 0.05 > far.mmd.p_value, near.frechet < far.frechet, far.task
        (True, True, None)
    """
    checked_domains(source_features, target_features, column, max_rows)
    embedding = None
    if source_labels is not None and target_labels is not None:
        embedding = task_embedding(target_features, target_labels, column=column, max_rows=max_rows, seed=seed)
    return measured(
        source_features,
        target_features,
        source_labels,
        embedding,
        column=column,
        seed=seed,
        max_rows=max_rows,
        figure=figure,
    )


def checked_domains(source: Any, target: Any, column: str, max_rows: int) -> tuple[DomainRows, DomainRows]:
    """
    The rows of both domains.

    Raises:
        ValueError: if they cannot be compared, or `max_rows` leaves too few.
    """
    if max_rows < 4:
        raise ValueError(
            f"`max_rows={max_rows}`: a distance of so few rows is chance. Give at least 4, better some hundred."
        )
    return read_domains(source, target, column=column, who="a distance", least=4)


def measured(
    source: Any,
    target: Any,
    source_labels: Any,
    target_embedding: np.ndarray | None,
    *,
    column: str,
    seed: int,
    max_rows: int,
    source_rows: int | None = None,
    figure: bool,
) -> DomainDistance:
    """
    What [`domain_distance`] returns, with the embedding of the target's task given and at most `source_rows` rows of
    the source.
    """
    most = max_rows if source_rows is None else min(max_rows, source_rows)
    domains = checked_domains(source, target, column, max_rows)
    task = None
    if target_embedding is not None and source_labels is not None:
        own = task_embedding(source, source_labels, column=column, max_rows=most, seed=seed)
        task = task_distance(own, target_embedding)
    first, second = (
        _drawn(rows, limit, np.random.default_rng(seed)) for rows, limit in zip(domains, (most, max_rows), strict=True)
    )
    return DomainDistance(
        a_distance=proxy_a_distance(source, target, column=column, max_rows=most, seed=seed),
        mmd=mmd_test(source, target, column=column, max_rows=min(most, _MMD_ROWS), seed=seed),
        frechet=frechet_distance(first, second),
        frechet_by_chance=_by_chance(first, second, seed),
        task=task,
        frechet_rows=(len(first), len(second)),
        width=first.shape[1],
        projection=projected((first, second), (None, None), "pca", column, max_rows, seed) if figure else None,
    )


def _drawn(rows: DomainRows, most: int, generator: np.random.Generator) -> np.ndarray:
    """`(N, D)` float64; of tokens or views of one example one, so that rows are independent of each other."""
    singles = rows.one_per_example(generator)
    return singles.take(drawn(len(singles), most, generator)).features.astype(np.float64)


def _by_chance(first: np.ndarray, second: np.ndarray, seed: int) -> float:
    """Mean Frechet distance of random divisions of all rows into parts of the same sizes."""
    generator = np.random.default_rng(seed)
    rows = np.concatenate([first, second])
    values = []
    for _ in range(_DIVISIONS):
        order = generator.permutation(len(rows))
        values.append(frechet_distance(rows[order[: len(first)]], rows[order[len(first) :]]))
    return float(np.mean(values))
