"""The MMD permutation test: whether two domains differ by more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_transfer.diagnostics.domain_rows import drawn, read_domains


BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths of the Gaussian kernels in units of the median distance between rows."""

__all__ = ["BANDWIDTHS", "MMDTest", "kernel_matrix", "mmd_test", "unbiased_mmd"]


@dataclass(frozen=True)
class MMDTest:
    """
    An MMD permutation test; made by [`mmd_test`].

    Args:
        mmd (`float`): the unbiased estimate of the squared discrepancy; about 0 for equal domains, may be negative.
        p_value (`float`): share of the permutations, the data as given among them, with at least this discrepancy.
        permutations (`int`): how many were drawn.
        quantile (`float`): what 95% of them stay below.
        bandwidths (`tuple[float, ...]`): of the kernels, in the units of the features.
        source_rows (`int`): rows of the source that were compared.
        target_rows (`int`): rows of the target that were compared.
        source_total (`int`): rows of the source there were.
        target_total (`int`): rows of the target there were.

    Example:
        >>> print(MMDTest(0.02, 0.001, 999, 0.004, (0.5, 1.0), 90, 80, 200, 80))
        MMD^2 0.02000 (p = 0.001 by 999 permutations, 95% of them below 0.00400; 90 of 200 source and 80 target rows)
    """

    mmd: float
    p_value: float
    permutations: int
    quantile: float
    bandwidths: tuple[float, ...]
    source_rows: int
    target_rows: int
    source_total: int
    target_total: int

    def __float__(self) -> float:
        return self.mmd

    def __str__(self) -> str:
        counts = [
            f"{rows} of {total}" if rows < total else f"{rows}"
            for rows, total in ((self.source_rows, self.source_total), (self.target_rows, self.target_total))
        ]
        return (
            f"MMD^2 {self.mmd:.5f} (p = {self.p_value:.3g} by {self.permutations} permutations, 95% of them below "
            f"{self.quantile:.5f}; {counts[0]} source and {counts[1]} target rows)"
        )


def mmd_test(
    source: Any,
    target: Any,
    *,
    column: str = "features",
    permutations: int = 999,
    bandwidths: Sequence[float] = BANDWIDTHS,
    max_rows: int | None = 1000,
    seed: int = 0,
) -> MMDTest:
    r"""
    Maximum mean discrepancy (MMD) with a permutation test: do two domains differ by more than chance?

    With source rows $x_i$, target rows $y_j$ and $k$ the mean of Gaussian kernels
    $k_b(u, v) = \exp(-\lVert u - v \rVert^2 / (2 \, b^2 \, m^2))$ over the bandwidths $b$,

    $$ \widehat{\mathrm{MMD}}^2 = \frac{1}{n (n - 1)} \sum_{i \neq j} k(x_i, x_j)
       + \frac{1}{m (m - 1)} \sum_{i \neq j} k(y_i, y_j) - \frac{2}{n m} \sum_{i, j} k(x_i, y_j) $$

    where $m$ in the kernel is the median distance between different rows of both domains together. That median and the
    kernels do not depend on which row is of which domain, so the p-value is exact: with $r$ of $P$
    permutations that have at least this discrepancy it is $(1 + r) / (1 + P)$, never 0. All permutations reuse one
    kernel matrix.

    Args:
        source (`datasets.Dataset`, array or list of arrays):
            What `extract_features` returns, or `(N, D)`; for tokens `(N, T, D)` or a list of `(T, D)`. Of tokens or
            views of one example one is drawn, as a test needs independent rows.
        target (`datasets.Dataset`, array or list of arrays):
            The same of the other domain. Labels are never read.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set.
        permutations (`int`, *optional*, defaults to 999):
            How many are drawn. The p-value is at least 1 / (1 + permutations).
        bandwidths (`Sequence[float]`, *optional*, defaults to `(0.25, 0.5, 1, 2, 4)`):
            $b$, in units of the median distance.
        max_rows (`int`, *optional*, defaults to 1000):
            Most rows of each domain; drawn at random if there are more, which the result says. Time and memory grow
            with the square. `None` for all.
        seed (`int`, *optional*, defaults to 0):
            Of the draw and the permutations.

    Shape:
        - source: `(N, D)`, target: `(M, D)`; the counts may differ.
        - returns [`MMDTest`]: the estimate is dimensionless, at most 2.

    Degenerate batches:
        If all rows are equal the estimate is 0 and the p-value 1. Where most rows are equal the median is taken over
        the distances above 0.

    Deviations from the paper:
        A mean of several kernels instead of one; the null distribution is that of permutations, not of an asymptotic
        formula or the bootstrap.

    Raises:
        ValueError: if an option is out of range; if the widths differ, there are fewer than 2 examples of a domain, or
            a feature is not finite.

    Relations:
        [`proxy_a_distance`] says how far the domains are apart in a unit of its own; this says whether they are. A
        small p-value on many rows can belong to a shift that does not matter: look at both.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> source, target = generator.normal(size=(60, 4)), generator.normal(size=(40, 4))
        >>> mmd_test(source, target).p_value > 0.05, mmd_test(source, target + 1).p_value
        (True, 0.001)

    Paper: Gretton et al., "A Kernel Two-Sample Test", JMLR 2012, https://jmlr.org/papers/v13/gretton12a.html
    """
    if permutations < 1:
        raise ValueError(
            f"`permutations={permutations}`: without any there is nothing to compare with, and no p-value. Give some "
            "hundred, such as the default 999."
        )
    if not bandwidths or min(bandwidths) <= 0:
        raise ValueError(
            f"`bandwidths={tuple(bandwidths)}`: they scale the median distance, and a kernel of width 0 sees nothing. "
            "Give one or more positive numbers, such as (0.5, 1.0, 2.0)."
        )
    domains = read_domains(source, target, column=column, who="the MMD test")
    generator = np.random.default_rng(seed)
    singles = [rows.one_per_example(generator) for rows in domains]
    most = None if max_rows is None else max(max_rows, 2)
    first, second = (rows.take(drawn(len(rows), most, generator)).features for rows in singles)
    kernel, widths = kernel_matrix(np.concatenate([first, second]), bandwidths)
    is_source = np.zeros((len(kernel), permutations + 1))
    is_source[: len(first)] = 1.0
    for number in range(1, permutations + 1):
        is_source[:, number] = generator.permutation(is_source[:, 0])
    found = unbiased_mmd(kernel, is_source)
    # a permutation that changes nothing sums in another order
    as_far = int((found[1:] >= found[0] - 1e-12).sum())
    return MMDTest(
        mmd=float(found[0]),
        p_value=(1 + as_far) / (1 + permutations),
        permutations=permutations,
        quantile=float(np.quantile(found[1:], 0.95)),
        bandwidths=widths,
        source_rows=len(first),
        target_rows=len(second),
        source_total=len(domains[0]),
        target_total=len(domains[1]),
    )


def kernel_matrix(rows: np.ndarray, bandwidths: Sequence[float]) -> tuple[np.ndarray, tuple[float, ...]]:
    """
    The mean of Gaussian kernels between rows, with a zero diagonal, and the widths they have.

    Shape:
        - rows: `(N, D)`; returns `(N, N)` float64 and the widths in the units of the rows.
    """
    # without the shift they share, of which the products would keep nothing but rounding errors
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    norms = (centred**2).sum(1)
    squares = np.maximum(norms[:, None] + norms[None] - 2 * centred @ centred.T, 0.0)
    # rounding apart equal rows are at distance 0
    squares[squares <= 1e-12 * max(float(norms.max(initial=0.0)), np.finfo(np.float64).tiny)] = 0.0
    above = squares[np.triu_indices(len(rows), 1)]
    median = float(np.median(above)) if len(above) else 0.0
    if median == 0.0 and above.any():
        median = float(np.median(above[above > 0]))
    scale = median if median > 0 else 1.0
    kernel = np.zeros_like(squares)
    for bandwidth in bandwidths:
        kernel += np.exp(squares / (-2 * bandwidth**2 * scale)) / len(bandwidths)
    np.fill_diagonal(kernel, 0.0)
    return kernel, tuple(float(bandwidth * np.sqrt(scale)) for bandwidth in bandwidths)


def unbiased_mmd(kernel: np.ndarray, is_source: np.ndarray) -> np.ndarray:
    """
    Squared discrepancies of many divisions of the same rows into source and target.

    Shape:
        - kernel: `(N, N)` with a zero diagonal; is_source: `(N, P)`, 1 for the rows of the source, 0 for the others,
          as many in each column. Returns `(P,)`.
    """
    sources = is_source[:, 0].sum()
    targets = len(kernel) - sources
    sums = kernel.sum(1)
    within = (is_source * (kernel @ is_source)).sum(0)
    reached = sums @ is_source
    between = reached - within
    others = sums.sum() - 2 * reached + within
    return within / (sources * (sources - 1)) + others / (targets * (targets - 1)) - 2 * between / (sources * targets)
