"""What the head of a model makes of features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


__all__ = ["head_logits"]


def head_logits(head: nn.Module, features: Tensor) -> Tensor:
    """
    What a head makes of pooled features, be it linear or a 1x1 convolution.

    Args:
        head (`nn.Module`):
            The layer that returns the logits.
        features (`Tensor`):
            Its inputs, of any floating type; they are brought to that of the head.

    Shape:
        - `features`: `(B, D)`, or `(B, T, D)` for one prediction a token.
        - returns: `(B, C)` or `(B, T, C)`.

    Example:
        >>> import torch
        >>> [head_logits(head, torch.zeros(2, 4)).shape for head in (nn.Linear(4, 3), nn.Conv2d(4, 3, 1))]
        [torch.Size([2, 3]), torch.Size([2, 3])]
    """
    features = features.to(next(head.parameters()).dtype)
    convolution = _convolution(head)
    if convolution is None:
        return head(features)
    # of a feature map that was averaged before: a map of one place
    return head(features.reshape(*features.shape, *[1] * len(convolution.kernel_size))).flatten(1)


def _convolution(head: nn.Module) -> Any:
    """The first layer of a head that is a convolution."""
    layers = (layer for layer in head.modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d))
    first = next(layers, None)
    return None if isinstance(first, nn.Linear) else first
