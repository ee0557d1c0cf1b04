"""Mixing the images of a batch with one another."""

from __future__ import annotations

import torch
from torch import Tensor


__all__ = ["blend", "paste", "random_partners", "random_share"]


@torch.no_grad()
def random_partners(groups: Tensor) -> Tensor:
    """
    A random permutation of rows that never leaves a group; random numbers from torch's global generator of the CPU,
    so that they do not depend on the device.

    Args:
        groups (`Tensor`): `(B,)` integer; rows of equal number are a group.

    Shape:
        - returns: `(B,)` int64, the partner of each row.

    Example:
        >>> random_partners(torch.tensor([7, 3, 3])).tolist()[0]
        0
    """
    shuffled = torch.rand(len(groups)).argsort().to(groups.device)
    # Two orders in which the groups lie one behind the other: in one the rows are as they come, in the other shuffled.
    given = groups.argsort(stable=True)
    random = shuffled[groups[shuffled].argsort(stable=True)]
    return torch.empty_like(given).scatter_(0, given, random)


def random_share(alpha: float) -> Tensor:
    r"""
    $\lambda \sim \operatorname{Beta}(\alpha, \alpha)$, a scalar on the CPU, from torch's global generator.

    Args:
        alpha (`float`): positive, dimensionless; below 1 most draws are close to 0 or 1.

    Example:
        >>> 0 <= random_share(0.2).item() <= 1
        True
    """
    return torch.distributions.Beta(alpha, alpha, validate_args=False).sample()


def blend(images: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    r"""
    $\lambda x_i + (1 - \lambda) x_{\pi(i)}$.

    Args:
        images (`Tensor`): `(B, ...)`, any float type.
        partners (`Tensor`): $\pi$, `(B,)`.
        share (`Tensor`): $\lambda$, scalar, dimensionless.

    Example:
        >>> blend(torch.tensor([[0.0], [8.0]]), torch.tensor([1, 0]), torch.tensor(0.75)).tolist()
        [[2.0], [6.0]]
    """
    # A scalar of float32 beside images of bfloat16: the result is bfloat16, the factor is not rounded.
    share = share.to(images.device)
    return share * images + (1 - share) * images[partners]


def paste(images: Tensor, partners: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    r"""
    Images with a rectangle of their partner's: its sides are $\sqrt{1 - \lambda}$ of the image's, its centre is
    anywhere, and what lies outside is cut off.

    Args:
        images (`Tensor`): `(B, ..., H, W)`.
        partners (`Tensor`): `(B,)`.
        share (`Tensor`): $\lambda$, scalar, dimensionless.

    Returns:
        `tuple[Tensor, Tensor]`: the images, and the share of the area that is still their own.

    Example:
        >>> images, share = paste(torch.arange(2.0).reshape(2, 1, 1, 1), torch.tensor([1, 0]), torch.tensor(0.0))
        >>> images.flatten().tolist(), share.item()
        ([1.0, 0.0], 0.0)
    """
    side = (1 - share.cpu()).sqrt()
    inside = [_interval(size, side).to(images.device) for size in images.shape[-2:]]
    box = inside[0].unsqueeze(1) & inside[1]
    return torch.where(box, images[partners], images), 1 - box.float().mean()


def _interval(size: int, side: Tensor) -> Tensor:
    """Which of `size` pixels lie in an interval of `side` times their number around a random one."""
    width = (size * side).round().long()
    start = torch.randint(size, ()) - width // 2
    pixels = torch.arange(size)
    return (pixels >= start) & (pixels < start + width)
