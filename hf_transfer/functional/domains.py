"""Masks over the domains of a batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor


__all__ = ["domain_masks", "mean_over_pairs"]


def domain_masks(domain: Tensor, num_domains: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """
    `(K, B)`: 1 where a row is of a domain, else 0.

    Args:
        domain (`Tensor`): `(B,)` int64 in `[0, K)`.
        num_domains (`int`): `K`.
        dtype (`torch.dtype`, *optional*): of the masks.

    Example:
        >>> domain_masks(torch.tensor([0, 1, 0]), 2)
        tensor([[1., 0., 1.],
                [0., 1., 0.]])
    """
    return (domain == torch.arange(num_domains, device=domain.device).unsqueeze(1)).to(dtype)


def mean_over_pairs(
    distance: Callable[[Tensor, Tensor], Tensor],
    domain: Tensor,
    num_domains: int,
    *,
    least: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """
    Mean of a distance over all pairs of domains that are in the batch; for two domains, the distance between them.

    Masks instead of chosen rows: shapes do not depend on the data, nothing waits for the device, and a rank whose
    batch lacks a domain runs the same backward.

    Args:
        distance (`Callable`): takes the `(B,)` masks of two domains, 1 for their rows and 0 for others, and returns a
            scalar. It must be finite, and have finite gradients, for masks of zeros too.
        domain (`Tensor`): `(B,)` int64 in `[0, K)`.
        num_domains (`int`): `K`.
        least (`int`, *optional*, defaults to 1): rows that each domain of a pair must have to count.
        dtype (`torch.dtype`, *optional*): of the masks.

    Shape:
        - returns: scalar; an exact zero with the graph of `distance` where no pair counts.

    Example:
        >>> x = torch.tensor([0.0, 4.0, 1.0])
        >>> def between_means(a, b):
        ...     return ((a * x).sum() / a.sum().clamp(min=1) - (b * x).sum() / b.sum().clamp(min=1)).abs()
        >>> mean_over_pairs(between_means, torch.tensor([0, 1, 2]), 3).item()  # (4 + 1 + 3) / 3
        2.6666667461395264
    """
    masks = domain_masks(domain, num_domains, dtype)
    enough = masks.sum(1) >= least
    total, pairs = torch.zeros((), device=domain.device, dtype=dtype), torch.zeros((), device=domain.device)
    for a, b in combinations(range(num_domains), 2):
        present = enough[a] & enough[b]
        total = total + distance(masks[a], masks[b]) * present
        pairs = pairs + present
    return total / pairs.clamp(min=1)
