"""Optimal transport between two sets of rows, along random directions (sliced Wasserstein)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


__all__ = ["projections", "sliced_wasserstein", "transport_cost"]


def projections(width: int, number: int, progress: float | Tensor = 1.0, *, like: Tensor) -> Tensor:
    r"""
    Random directions, evenly spread over the unit sphere; a function of `progress` alone.

    No random state is drawn from or kept: a resumed run sees the directions a straight one does, all ranks see the
    same, and nothing waits for the device. The numbers are a hash (splitmix64) of the place in the matrix and of the
    bits of the progress, made normal by the method of Box and Muller.

    Args:
        width (`int`): $D$.
        number (`int`): how many.
        progress (`float` or `Tensor`, *optional*, defaults to 1.0): share of the training that is done.
        like (`Tensor`): of the device and type to make.

    Shape:
        - returns: `(width, number)`, columns of length 1.

    Example:
        >>> like = torch.zeros(())
        >>> directions = projections(3, 100, 0.25, like=like)
        >>> directions.shape, torch.equal(directions, projections(3, 100, 0.25, like=like))
        (torch.Size([3, 100]), True)
    """
    # Stays on the host, where `attach` keeps the progress: a kernel takes it as a plain number.
    bits = torch.as_tensor(progress).to(torch.float64).view(torch.int64)
    places = torch.arange(2 * width * number, device=like.device)
    first, second = _uniform(_hashed(places + _hashed(bits))).view(2, width, number)
    normal = (-2 * first.log()).sqrt() * torch.cos(2 * torch.pi * second)
    return (normal / normal.norm(dim=0, keepdim=True).clamp(min=1e-30)).to(like.dtype)


def _hashed(number: Tensor) -> Tensor:
    """Splitmix64 of an int64. Products wrap around; shifts repeat the sign, so the bits it fills are masked."""
    number = number - 0x61C8864680B583EB  # the golden ratio's digits, plus 2**64
    number = (number ^ (number >> 30 & 2**34 - 1)) * -0x40A7B892E31B1A47
    number = (number ^ (number >> 27 & 2**37 - 1)) * -0x6B2FB644ECCEEE15
    return number ^ (number >> 31 & 2**33 - 1)


def _uniform(number: Tensor) -> Tensor:
    """In (0, 1], from the upper 24 bits: as many as float32 holds."""
    return ((number >> 40 & 2**24 - 1).float() + 0.5) / 2**24


def transport_cost(values: Tensor, source: Tensor, target: Tensor, *, power: Literal[1, 2] = 2) -> Tensor:
    r"""
    The least cost of moving one set of numbers onto another, by column: $\int_0^1 |F_s^{-1}(u) - F_t^{-1}(u)|^p du$.

    The sets may differ in size: both quantile functions are steps, and between the steps of the two the integrand is
    constant.

    Args:
        values (`Tensor`): `(N, P)`, float32 or float64.
        source (`Tensor`): `(N,)`, 1 for the rows of one set and 0 for others.
        target (`Tensor`): `(N,)`, the same for the other.
        power (`int`, *optional*, defaults to 2): $p$, 1 or 2.

    Shape:
        - returns: `(P,)`, $W_p^p$ in the unit of the values to the power $p$. Finite, but of no meaning, where a set
          has no row.

    Example:
        >>> values = torch.tensor([[0.0], [1.0], [10.0]])  # half of the 10 comes from 0, half from 1
        >>> transport_cost(values, torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]), power=1)
        tensor([9.5000])
    """
    masks = torch.stack([source, target]).to(values.dtype)
    number = masks.sum(1, keepdim=True)
    steps = torch.arange(1, values.shape[0] + 1, device=values.device, dtype=values.dtype)
    upper = (steps / number.clamp(min=1)).clamp(max=1).flatten().sort().values
    lower = torch.cat([torch.zeros_like(upper[:1]), upper[:-1]])
    # in the middle between two steps no rounding reaches the next
    ranks = torch.minimum((upper + lower) / 2 * number, number - 1).clamp(min=0).long()
    quantiles = []
    for mask, rank in zip(masks, ranks, strict=True):
        ordered = torch.where(mask.unsqueeze(1) > 0, values, torch.inf).sort(dim=0).values
        quantiles.append(torch.where(mask.sum() > 0, ordered[rank], 0.0))
    difference = quantiles[0] - quantiles[1]
    cost = difference.square() if power == 2 else difference.abs()
    return (upper - lower) @ cost


def sliced_wasserstein(
    features: Tensor, source: Tensor, target: Tensor, directions: Tensor, *, power: Literal[1, 2] = 2
) -> Tensor:
    r"""
    The mean over directions $\theta$ of the transport cost of the rows projected on them, $W_p^p(\theta^\top s,
    \theta^\top t)$.

    Args:
        features (`Tensor`): `(N, D)`; half precision is computed in float32.
        source (`Tensor`): `(N,)`, 1 for the rows of one set and 0 for others.
        target (`Tensor`): `(N,)`, the same for the other.
        directions (`Tensor`): `(D, P)`, of length 1, from [`projections`].
        power (`int`, *optional*, defaults to 2): $p$, 1 or 2.

    Shape:
        - returns: scalar, in the unit of the features to the power $p$. For $p = 2$ a shift by $v$ costs
          $\lVert v \rVert^2 / D$ on average over the directions.

    Example:
        >>> x, masks = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.eye(2)
        >>> sliced_wasserstein(x, *masks, torch.eye(2)).item()  # (3 ** 2 + 4 ** 2) / 2
        12.5
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    # the cost does not depend on the origin, the digits do
    values = (features - features[:1].detach()) @ directions.to(features.dtype)
    return transport_cost(values, source, target, power=power).mean()
