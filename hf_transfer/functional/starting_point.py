"""Squared distance of weights from a starting point that may be kept elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


__all__ = ["compact", "low_rank_squared_norm", "squared_distance"]


class _SquaredDistance(torch.autograd.Function):
    # `(p - p0).square().sum()` would keep the difference, a second copy of the model, until the backward.
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, reference: Tensor) -> Tensor:
        ctx.save_for_backward(parameter, reference)
        return _difference(parameter, reference).square().sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        parameter, reference = ctx.saved_tensors
        return (2 * gradients[0] * _difference(parameter, reference)).to(parameter.dtype), None


def _difference(parameter: Tensor, reference: Tensor) -> Tensor:
    wide = torch.promote_types(parameter.dtype, torch.float32)
    return parameter.to(wide) - reference.to(parameter.device, wide, non_blocking=True)


def squared_distance(parameter: Tensor, reference: Tensor) -> Tensor:
    """
    The squared Euclidean distance of two tensors, at least in float32, without keeping their difference for backward.

    Args:
        parameter (`Tensor`): any shape and device; receives the gradient.
        reference (`Tensor`): the same shape, any device and float type; streamed to the parameter's device in both
        passes.

    Example:
        >>> squared_distance(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])).item()
        25.0
    """
    return _SquaredDistance.apply(parameter, reference)


def low_rank_squared_norm(down: Tensor, up: Tensor) -> Tensor:
    r"""
    $\lVert B A \rVert_F^2 = \sum (A A^\top) \circ (B^\top B)$, from two `(R, R)` matrices instead of the product.

    Args:
        down (`Tensor`): A, `(R, in)`.
        up (`Tensor`): B, `(out, R)`.

    Example:
        >>> low_rank_squared_norm(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [0.0]])).item()
        45.0
    """
    return ((down @ down.mT) * (up.mT @ up)).sum()


def compact(tensor: Tensor) -> Tensor:
    """The tensor in bfloat16 if that loses nothing, as for weights that were published in it; else itself."""
    half = tensor.to(torch.bfloat16)
    return half if torch.equal(half.to(tensor.dtype), tensor) else tensor
