"""Mathematics of domain-adversarial learning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


__all__ = ["domain_cross_entropy", "masked_mean", "reverse_gradient"]


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


def domain_cross_entropy(logits: Tensor, domain: Tensor, weights: Tensor | None = None) -> Tensor:
    """
    Mean cross-entropy of a domain classifier; an exact zero with a graph where all rows are of one domain.

    A batch of one domain says nothing of what tells domains apart: its gradient would only shift the bias.

    Args:
        logits (`Tensor`): `(B, K)`.
        domain (`Tensor`): `(B,)` int64 in `[0, K)`.
        weights (`Tensor`, *optional*): `(B,)`, what each row counts (dimensionless), 0 for a row that is not there.
            The mean is weighted with them.

    Shape:
        - returns: scalar, in nats per row; log K at chance.

    Example:
        >>> domain_cross_entropy(torch.zeros(3, 2), torch.tensor([1, 1, 1])).item()
        0.0
    """
    if weights is None:
        mixed = (domain != domain[:1]).any()
        return F.cross_entropy(logits, domain) * mixed
    present = (weights > 0).unsqueeze(-1) & (
        domain.unsqueeze(-1) == torch.arange(logits.shape[-1], device=domain.device)
    )
    mixed = present.any(0).sum() > 1
    losses = F.cross_entropy(logits, domain, reduction="none")
    return (weights * losses).sum() / torch.where(mixed, weights.sum(), 1.0) * mixed


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """
    Mean of the values that a mask counts; an exact zero with a graph where it counts none.

    Args:
        values (`Tensor`): `(N,)`.
        mask (`Tensor`): `(N,)`, bool, or 0 and 1.

    Example:
        >>> masked_mean(torch.tensor([1.0, 5.0, 3.0]), torch.tensor([True, False, True])).item()
        2.0
    """
    mask = mask.to(values.dtype)
    return (values * mask).sum() / mask.sum().clamp(min=1)
