"""Mixout: weights whose entries are replaced at random by those they started from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


__all__ = ["mixout", "rebuilt_for_backward"]


class _Mixout(torch.autograd.Function):
    # Written out in torch operations, autograd would keep three tensors of the weight's size and type.
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, start: Tensor, kept: Tensor, probability: float, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.probability, ctx.dtype = probability, weight.dtype
        return _mixed(weight, start, kept, probability).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        wide = torch.promote_types(ctx.dtype, torch.float32)
        gradient = (gradients[0].to(wide) * kept).div_(1 - ctx.probability)
        return gradient.to(ctx.dtype), None, None, None, None


def _mixed(weight: Tensor, start: Tensor, kept: Tensor, probability: float) -> Tensor:
    wide = torch.promote_types(weight.dtype, torch.float32)
    mixed = start.to(weight.device, wide, non_blocking=True, copy=True)
    return mixed.add_((weight.to(wide) - mixed).mul_(kept), alpha=1 / (1 - probability))


def mixout(
    weight: Tensor, start: Tensor, kept: Tensor, *, probability: float, dtype: torch.dtype | None = None
) -> Tensor:
    r"""
    A weight $w$, each entry replaced with probability $p$ by that of $u$, and corrected to expectation $w$.

    With $m_i \sim \operatorname{Bernoulli}(p)$, one where an entry is replaced,

    $$ \frac{(1 - m) \circ w + m \circ u - p\,u}{1 - p} = u + \frac{(1 - m) \circ (w - u)}{1 - p} $$

    so it is inverted dropout on the difference from the start: $\mathbb{E}[1 - m] = 1 - p$ gives back $w$; a replaced
    entry is exactly $u$; and where $w = u$ nothing changes, whatever the mask.

    Args:
        weight (`Tensor`): $w$, any shape; receives the gradient $(1 - m) / (1 - p)$.
        start (`Tensor`): $u$, the same shape, any device and float type; streamed to the device of the weight.
        kept (`Tensor`): $1 - m$, boolean, on the device of the weight; all that is kept for the backward.
        probability (`float`): $p$ in [0, 1).
        dtype (`torch.dtype`, *optional*): type of the result; by default that of the weight. The computation is at
            least in float32.

    Example:
        >>> weight, start = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.5])
        >>> mixout(weight, start, torch.tensor([True, False]), probability=0.5)
        tensor([2.0000, 1.5000])

    Paper: Lee et al. 2020, "Mixout: Effective Regularization to Finetune Large-scale Pretrained Language Models", https://huggingface.co/papers/1909.11299
    """
    return _Mixout.apply(weight, start, kept, probability, dtype or weight.dtype)


def rebuilt_for_backward(
    mixed: Tensor, weight: Tensor, start: Tensor, kept: Tensor, *, probability: float
) -> AbstractContextManager:
    """
    Within this context, operations keep the recipe of a mixed weight for their backward in place of its values.

    A layer needs its weight again for the gradient of its input. Without this every mixed weight would stay on the
    device until the backward: a second copy of the model.

    Args:
        mixed (`Tensor`): what [`mixout`] returned.
        weight, start, kept, probability: what it was made from.

    Raises:
        RuntimeError: in the backward, if the weight or another saved tensor was changed in place in between.

    Example:
        >>> weight = torch.ones(2, 2, requires_grad=True)
        >>> start, kept = torch.zeros(2, 2), torch.eye(2, dtype=torch.bool)
        >>> mixed = mixout(weight, start, kept, probability=0.5)
        >>> with rebuilt_for_backward(mixed, weight, start, kept, probability=0.5):
        ...     loss = (torch.ones(1, 2, requires_grad=True) @ mixed).sum()
        >>> loss.backward()
        >>> weight.grad
        tensor([[2., 0.],
                [0., 2.]])
    """
    address, dtype, version = mixed.untyped_storage().data_ptr(), mixed.dtype, weight._version

    def pack(tensor: Tensor) -> Callable[[], Tensor]:
        if address and tensor.untyped_storage().data_ptr() == address:
            view = (tensor.size(), tensor.stride(), tensor.storage_offset())

            def rebuild() -> Tensor:
                _unchanged(weight, version)
                with torch.no_grad():
                    return _mixed(weight, start, kept, probability).to(dtype).as_strided(*view)

            return rebuild
        # Hooks switch off autograd's own check for changes in place. Detached: a saved output would keep itself alive.
        saved, saved_version = tensor.detach(), tensor._version

        def give_back() -> Tensor:
            _unchanged(saved, saved_version)
            return saved

        return give_back

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda rebuild: rebuild())


def _unchanged(tensor: Tensor, version: int) -> None:
    if tensor._version != version:
        raise RuntimeError(
            f"A tensor of shape {tuple(tensor.shape)} that a mixed layer needs for its backward was changed in place "
            "since the forward: the gradient would belong to other values. Call `backward` before the optimizer's "
            "step, and write operations on the layer's input out of place."
        )
