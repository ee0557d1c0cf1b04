"""A forward that can be differentiated twice and batched over tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


__all__ = ["LayerNormWrittenOut", "eager_attention", "layer_norm"]


@contextmanager
def eager_attention(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """
    The model with attention written out, for a while.

    The fused kernels of `scaled_dot_product_attention` have no second derivative (pytorch#116350) and no rule for
    `vmap`. Models without the switch, convolutional networks among them, are left alone.

    Args:
        model (`nn.Module`): any, also under PEFT.
        wanted (`bool`, *optional*, defaults to `True`): whether to change anything.
    """
    owner: Any = model
    base = owner.get_base_model() if hasattr(owner, "get_base_model") else owner
    before = getattr(getattr(base, "config", None), "_attn_implementation", None)
    if not wanted or before in (None, "eager") or not hasattr(base, "set_attn_implementation"):
        yield
        return
    base.set_attn_implementation("eager")
    try:
        yield
    finally:
        base.set_attn_implementation(before)


class LayerNormWrittenOut(TorchFunctionMode):
    """
    Layer normalisation by its formula, for a while.

    The second derivative of PyTorch's own within `vmap` is wrong (2.13): the gradient with respect to what is before
    it misses by up to half. `tests/meta/test_derivatives.py` tells when this can go.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Called in place of every function of torch."""
        if func in (torch.layer_norm, nn.functional.layer_norm):
            return layer_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """
    `torch.nn.functional.layer_norm` by its formula, in float32 for inputs of half precision.

    Example:
        >>> layer_norm(torch.tensor([1.0, 3.0]), (2,), eps=0.0)
        tensor([-1.,  1.])
    """
    half = input.dtype in (torch.float16, torch.bfloat16)
    dims = tuple(range(-len(normalized_shape), 0))
    centred = input.float() if half else input
    centred = centred - centred.mean(dims, keepdim=True)
    result = centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
    result = result if weight is None else result * weight
    result = result if bias is None else result + bias
    return result.to(input.dtype)
