"""Where the gradients of several tasks leave the path of the ordinary backward, and come back combined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


__all__ = ["Leaves", "delivered", "views"]

Combine = Callable[[Tensor], Tensor]
"""From the gradients of the tasks `(K, N)` to the combined one `(N,)`."""


class _Views(torch.autograd.Function):
    """Several views of one tensor, whose gradients are combined instead of added up."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, count: int, combine: Combine) -> tuple[Tensor, ...]:
        ctx.combine = combine
        return tuple(tensor.view_as(tensor) for _ in range(count))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        rows = torch.stack([gradient.flatten() for gradient in gradients])
        return ctx.combine(rows).view_as(gradients[0]), None, None


def views(tensor: Tensor, count: int, combine: Combine) -> list[Tensor]:
    """
    `count` views of a tensor. In the backward, the gradients that arrive at them go on as one that `combine` makes of
    them; what uses the tensor itself is not concerned.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> first, second = views(x, 2, lambda gradients: gradients.amax(0))
        >>> (first.sum() + 3 * second[0]).backward()
        >>> x.grad
        tensor([3., 1.])
    """
    return list(_Views.apply(tensor, count, combine))  # type: ignore[arg-type]


class _Delivered(torch.autograd.Function):
    """A value as it is, whose backward hands over gradients that are already known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        (scale,) = outer
        return scale, None, *((scale * gradient) for gradient in ctx.gradients)


def delivered(value: Tensor, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """
    `value`, unchanged. Its backward also gives each tensor its gradient, times whatever multiplies the value: like the
    sum of their products minus its own value, without computing it.

    Example:
        >>> p = torch.zeros(2, requires_grad=True)
        >>> loss = delivered(torch.tensor(5.0), [p], [torch.tensor([1.0, -1.0])])
        >>> (2 * loss).backward()
        >>> loss.item(), p.grad
        (5.0, tensor([ 2., -2.]))
    """
    return _Delivered.apply(value, gradients, *tensors)  # type: ignore[return-value]


class Leaves:
    """
    Leaves in place of tensors: the backward of what is computed from them ends there.

    Args:
        inputs (`Sequence[Tensor]`): the tensors; one that occurs several times gets one leaf.

    Example:
        >>> x = torch.ones(2, requires_grad=True) * 3
        >>> leaves = Leaves([x, x])
        >>> leaves.inputs[0] is leaves.inputs[1], leaves.inputs[0].is_leaf, leaves.sources[0] is x
        (True, True, True)
    """

    def __init__(self, inputs: Sequence[Tensor]):
        distinct = {id(tensor): tensor for tensor in inputs}
        leaves = {key: tensor.detach().requires_grad_(tensor.requires_grad) for key, tensor in distinct.items()}
        self.inputs = [leaves[id(tensor)] for tensor in inputs]
        trained = [key for key, tensor in distinct.items() if tensor.requires_grad]
        self.sources = [distinct[key] for key in trained]
        """The tensors with a graph behind them, each once."""
        self._leaves = [leaves[key] for key in trained]

    def gradients(self, loss: Tensor) -> list[Tensor | None]:
        """The gradient of a loss at each source, the graph kept; None where it does not depend on it."""
        return list(torch.autograd.grad(loss, self._leaves, retain_graph=True, allow_unused=True))
