"""Small convex problems solved on the device in a fixed number of steps, so that nothing waits for it."""

from __future__ import annotations

import torch
from torch import Tensor


__all__ = ["nonnegative_quadratic", "simplex_least"]

_QUADRATIC_STEPS = 30
_SIMPLEX_STEPS = 50
_TINY = 1e-18


def nonnegative_quadratic(matrix: Tensor, vector: Tensor) -> Tensor:
    r"""
    Where a quadratic is least over nonnegative numbers, by a primal-dual interior point method.

    $$ \arg\min_{x \ge 0} \; \tfrac{1}{2} x^\top Q x + q^\top x $$

    Args:
        matrix (`Tensor`): `(..., K, K)` float64, positive semidefinite, entries of the order of one.
        vector (`Tensor`): `(..., K)` float64, of the order of one.

    Shape:
        - returns: `(..., K)`; a point between the solutions where there are several.

    Example:
        >>> q = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        >>> nonnegative_quadratic(torch.eye(2, dtype=torch.float64), q).round(decimals=6)
        tensor([1., 0.], dtype=torch.float64)
    """
    x, z = torch.ones_like(vector), torch.ones_like(vector)
    for _ in range(_QUADRATIC_STEPS):
        residual = _times(matrix, x) + vector - z
        complement = (x * z).mean(-1, keepdim=True)
        system = matrix + torch.diag_embed(z / x)
        # Where the step to the solution itself leads tells how far to aim inside.
        straight = _solve(system, -residual - z)
        slack = _times(matrix, straight) + residual
        length = torch.minimum(_room(x, straight, 1.0), _room(z, slack, 1.0))
        reached = ((x + length * straight) * (z + length * slack)).mean(-1, keepdim=True)
        aim = (complement * (reached / complement).clamp(0, 1) ** 3).clamp(min=_TINY)
        step = _solve(system, -residual - z + (aim - straight * slack) / x)
        slack = _times(matrix, step) + residual
        length = torch.minimum(_room(x, step, 0.995), _room(z, slack, 0.995))
        x, z = (x + length * step).clamp(min=_TINY), (z + length * slack).clamp(min=_TINY)
    return x


def simplex_least(gram: Tensor, linear: Tensor, slope: Tensor) -> Tensor:
    r"""
    Where a linear function plus a norm is least over the simplex, by a barrier method with a line search.

    $$ \arg\min_{w \ge 0, \; \sum_k w_k = 1} \; b^\top w + s \sqrt{w^\top G w} $$

    Args:
        gram (`Tensor`): `(K, K)` float64, positive semidefinite, entries of the order of one.
        linear (`Tensor`): `(K,)`, $b$.
        slope (`Tensor`): scalar, $s \ge 0$.

    Shape:
        - returns: `(K,)`, positive, of sum one.

    Example:
        >>> gram = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))
        >>> simplex_least(gram, torch.zeros(2).double(), torch.ones(()).double()).round(decimals=4)
        tensor([0.8000, 0.2000], dtype=torch.float64)
    """
    count = len(linear)
    w = torch.full_like(linear, 1 / count)
    lengths = 0.5 ** torch.arange(12, device=gram.device, dtype=gram.dtype).unsqueeze(1)
    ones = torch.ones_like(linear)
    barrier = 1.0

    def value(at: Tensor, barrier: float) -> Tensor:
        norm = ((at @ gram) * at).sum(-1).clamp(min=0).add(1e-14).sqrt()
        return at @ linear + slope * norm - barrier * at.clamp(min=1e-300).log().sum(-1)

    for _ in range(_SIMPLEX_STEPS):
        product = gram @ w
        norm = (w @ product).clamp(min=0).add(1e-14).sqrt()
        gradient = linear + slope * product / norm - barrier / w
        bend = slope * (gram / norm - torch.outer(product, product) / norm**3)
        # Steps stay on the simplex, where the ones change nothing; without them, nothing bends along `w` itself.
        hessian = bend + torch.diag(barrier / w**2) + 1
        down, even = _solve(hessian, -gradient), _solve(hessian, ones)
        step = down - even * down.sum() / even.sum()
        tried = w + lengths * _room(w, step, 0.99) * step
        tried = torch.cat([w.unsqueeze(0), tried])
        tried = tried / tried.sum(1, keepdim=True)
        best = torch.nan_to_num(value(tried, barrier), nan=torch.inf).argmin()
        w = tried.index_select(0, best.unsqueeze(0)).squeeze(0)
        w = w.clamp(min=1e-100)
        barrier *= 0.5
    return w


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _solve(matrix: Tensor, vector: Tensor) -> Tensor:
    # not `solve`, which waits for the device to learn whether the matrix was singular
    return torch.linalg.solve_ex(matrix, vector.unsqueeze(-1))[0].squeeze(-1)


def _room(at: Tensor, step: Tensor, share: float) -> Tensor:
    """The longest multiple of a step, at most 1, that keeps `share` of the way to zero: `(..., 1)`."""
    ratio = torch.where(step < 0, -at / torch.where(step < 0, step, -1.0), torch.inf)
    return (share * ratio.amin(-1, keepdim=True)).clamp(max=1.0)
