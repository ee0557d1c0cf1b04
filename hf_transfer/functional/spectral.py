"""Mathematics of the singular values of a batch of features."""

from __future__ import annotations

import torch
from torch import Tensor


__all__ = ["smallest_squared_singular_values"]


def smallest_squared_singular_values(features: Tensor, k: int = 1) -> Tensor:
    r"""
    $\sum_{i=1}^{k} \sigma_{-i}^2$, the sum of the `k` smallest squared singular values of `features`. The largest of
    the $\min(B, D)$ is never among them: with one row, or one column, there is nothing smaller and the sum is zero.

    From the singular values themselves, not from the eigenvalues of the Gram matrix: those lose half of the digits
    and turn negative for features without full rank. The gradient $2 \sigma_i u_i v_i^\top$ has no differences of
    singular values in it, so it is finite where several are equal or zero.

    Args:
        features (`Tensor`): `(B, D)`, float32 or float64.
        k (`int`, *optional*, defaults to 1): how many are added up.

    Shape:
        - returns: scalar, in squared units of the features.

    Example:
        >>> smallest_squared_singular_values(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]])).item()
        0.25
        >>> smallest_squared_singular_values(torch.ones(1, 3)).item()
        0.0
    """
    count = min(k, min(features.shape) - 1)
    if count < 1:
        return (0 * features).sum()
    # The decomposition of what is not finite is an error on some devices; after an overflow in half precision the loss
    # is to be no number instead, so that the step is left out.
    finite = torch.where(features.isfinite(), features, 0.0)
    return torch.linalg.svdvals(finite)[-count:].square().sum() + (0 * features).sum()
