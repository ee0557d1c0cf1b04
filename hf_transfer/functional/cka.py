"""Linear centred kernel alignment: how alike two representations of the same rows are."""

from __future__ import annotations

import torch
from torch import Tensor


__all__ = ["linear_cka"]


def linear_cka(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    r"""
    Linear centred kernel alignment (CKA): the similarity of two representations of the same rows, whatever their
    widths.

    With $K = X X^\top$, $L = Y Y^\top$ and an estimator of the Hilbert-Schmidt independence criterion

    $$ \operatorname{CKA} = \frac{\operatorname{HSIC}(K, L)}
       {\sqrt{\operatorname{HSIC}(K, K) \operatorname{HSIC}(L, L)}} $$

    which rotations, shifts and a common scale of `x` or of `y` leave as it is. The debiased estimator (Song et al.,
    2012) leaves out the diagonals of $K$ and $L$,

    $$ \operatorname{HSIC}_1 = \frac{1}{n (n - 3)} \Big( \sum_{i \neq j} K_{ij} L_{ij}
       + \frac{k \, l}{(n - 1)(n - 2)} - \frac{2}{n - 2} \sum_i k_i l_i \Big), \qquad
       k_i = \sum_{j \neq i} K_{ij}, \; k = \sum_i k_i $$

    and is about 0 for independent representations, however wide they are. The biased one,
    $\operatorname{tr}(K H L H) / (n - 1)^2$ with the centring matrix $H$, goes to 1 there when there are fewer rows
    than features: compare blocks by it only where there are many more.

    Args:
        x (`Tensor`):
            Features of one model or block.
        y (`Tensor`):
            Features of the same rows, in the same order, of another.
        debiased (`bool`, *optional*, defaults to `True`):
            Which estimator.

    Shape:
        - `x`: `(N, D)`, `y`: `(N, E)`, of any floating type.
        - returns: scalar float64, dimensionless; 1 for equal ones, at most 1. The debiased one may fall a little below
          0.

    Degenerate batches:
        NaN where all rows of `x` or of `y` are equal, for the debiased one also where all but one are: there is
        nothing to be alike.

    Deviations from the paper:
        Computed in float64, on products of features or of rows, whichever are smaller. The paper's own estimate is
        the biased one; the debiased one is that of Nguyen et al. (2020), https://huggingface.co/papers/2010.15327

    Raises:
        ValueError: if the rows are not as many in both, or too few; if an input is no matrix or is not finite.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(40, 200, generator=generator), torch.randn(40, 100, generator=generator)
        >>> round(linear_cka(x, 3 * x + 1).item(), 4)
        1.0
        >>> abs(linear_cka(x, y).item()) < 0.1, linear_cka(x, y, debiased=False).item() > 0.5
        (True, True)

    Paper: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019,
    https://huggingface.co/papers/1905.00414
    """
    _check(x, y, 4 if debiased else 2)
    (x, flat_x), (y, flat_y) = _centred(x), _centred(y)
    if max(x.shape[1], y.shape[1]) <= len(x):
        of, first, second = _by_features, x, y
    else:
        of, first, second = _by_rows, x @ x.T, y @ y.T
    own_x, own_y = of(first, first, debiased), of(second, second, debiased)
    flat = flat_x | flat_y | (own_x <= _ROUNDING * _size(x)) | (own_y <= _ROUNDING * _size(y))
    scale = (torch.where(flat, 1.0, own_x) * torch.where(flat, 1.0, own_y)).sqrt()
    return torch.where(flat, torch.nan, of(first, second, debiased) / scale)


_ROUNDING = 1e-12  # what is left of sums that cancel, relative to their terms


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Without the shift, on which neither estimator depends, and whether nothing is left."""
    x = x.double()
    centred = x - x.mean(0)
    return centred, centred.square().sum() <= _ROUNDING**2 * x.square().sum()


def _size(x: Tensor) -> Tensor:
    return x.square().sum().square()


def _by_features(x: Tensor, y: Tensor, debiased: bool) -> Tensor:
    """HSIC up to a factor that cancels, from products of features."""
    total = (x.T @ y).square().sum()
    if not debiased:
        return total
    norms = x.square().sum(1), y.square().sum(1)
    sums = x @ x.sum(0) - norms[0], y @ y.sum(0) - norms[1]
    return _unbiased(total - norms[0] @ norms[1], *sums)


def _by_rows(first: Tensor, second: Tensor, debiased: bool) -> Tensor:
    """The same from the Gram matrices of the rows."""
    if not debiased:
        return (first * second).sum()
    diagonals = first.diagonal(), second.diagonal()
    sums = first.sum(1) - diagonals[0], second.sum(1) - diagonals[1]
    return _unbiased((first * second).sum() - diagonals[0] @ diagonals[1], *sums)


def _unbiased(off_diagonal: Tensor, first: Tensor, second: Tensor) -> Tensor:
    rows = len(first)
    return off_diagonal + first.sum() * second.sum() / ((rows - 1) * (rows - 2)) - 2 / (rows - 2) * (first @ second)


def _check(x: Tensor, y: Tensor, least: int) -> None:
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y):
        raise ValueError(
            f"Representations of shapes {tuple(x.shape)} and {tuple(y.shape)} cannot be compared: row i of both must "
            "be of the same example. Give `(N, D)` and `(N, E)`; pool tokens or count each as a row."
        )
    if len(x) < least:
        raise ValueError(
            f"{len(x)} rows are too few: the estimate needs {least} and is rough below some hundred. Give more rows."
        )
    for name, value in (("x", x), ("y", y)):
        if not value.isfinite().all():
            raise ValueError(
                f"`{name}` has numbers that are not finite, such as an overflow of half precision: so would be the "
                "similarity. Extract the features in single precision."
            )
