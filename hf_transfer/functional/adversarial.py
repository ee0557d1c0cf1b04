"""Mathematics of domain-adversarial learning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


__all__ = ["domain_cross_entropy", "reverse_gradient"]


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: Tensor) -> Tensor:
        ctx.save_for_backward(strength)
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (strength,) = ctx.saved_tensors
        return -strength * gradients[0], None


def reverse_gradient(features: Tensor, strength: float | Tensor = 1.0) -> Tensor:
    r"""
    Gradient reversal $R_\lambda$: the identity forward; backward the gradient is multiplied by $-\lambda$.

    Args:
        features (`Tensor`): any shape.
        strength (`float` or scalar `Tensor`, *optional*, defaults to 1.0): $\lambda$, dimensionless.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> reverse_gradient(x, 0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])

    Paper: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, https://huggingface.co/papers/1505.07818
    """
    return _ReverseGradient.apply(features, torch.as_tensor(strength))


def domain_cross_entropy(logits: Tensor, domain: Tensor) -> Tensor:
    """
    Mean cross-entropy of a domain classifier; an exact zero with a graph where all rows are of one domain.

    A batch of one domain says nothing of what tells domains apart: its gradient would only shift the bias.

    Args:
        logits (`Tensor`): `(B, K)`.
        domain (`Tensor`): `(B,)` int64 in `[0, K)`.

    Shape:
        - returns: scalar, in nats per row; log K at chance.

    Example:
        >>> domain_cross_entropy(torch.zeros(3, 2), torch.tensor([1, 1, 1])).item()
        0.0
    """
    mixed = (domain != domain[:1]).any()
    return F.cross_entropy(logits, domain) * mixed
