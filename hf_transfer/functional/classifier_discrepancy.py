"""Mathematics of classifiers that disagree."""

from __future__ import annotations

from torch import Tensor

from hf_transfer.functional.adversarial import masked_mean


__all__ = ["classifier_discrepancy"]


def classifier_discrepancy(first: Tensor, second: Tensor, counted: Tensor) -> Tensor:
    r"""
    $\frac{1}{n} \sum_i \frac{1}{C} \sum_c |p_{ic} - q_{ic}|$, the mean difference of two predicted distributions. An
    exact zero with a graph where no row counts.

    Args:
        first (`Tensor`): `(N, C)`, logits of one classifier.
        second (`Tensor`): `(N, C)`, logits of the other.
        counted (`Tensor`): `(N,)`, bool or 0 and 1.

    Shape:
        - returns: scalar in [0, 2 / C], dimensionless.

    Example:
        >>> import torch
        >>> sure = torch.tensor([[9e9, 0.0]])
        >>> classifier_discrepancy(sure, -sure, torch.ones(1)).item()
        1.0

    Paper: Saito et al., "Maximum Classifier Discrepancy for Unsupervised Domain Adaptation", CVPR 2018, https://huggingface.co/papers/1712.02560
    """
    return masked_mean((first.softmax(-1) - second.softmax(-1)).abs().mean(-1), counted)
