"""Mathematics of margin disparity discrepancy, and of a softmax cross-entropy against a class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_transfer.functional.adversarial import masked_mean


__all__ = ["margin_disparity", "negative_log_complement"]


def negative_log_complement(logits: Tensor, classes: Tensor) -> Tensor:
    r"""
    $-\log(1 - \operatorname{softmax}(z)_c)$ for every row: the cross-entropy of not being of class $c$.

    Computed as $\log(1 + e^{z_c - \operatorname{logsumexp}_{j \neq c} z_j})$, which is the same number and exact for
    logits of any size: neither $1 - p$ nor a logarithm of zero appears.

    Args:
        logits (`Tensor`): `(N, C)`, two classes or more.
        classes (`Tensor`): `(N,)` int64 in `[0, C)`.

    Shape:
        - returns: `(N,)`, in nats.

    Example:
        >>> negative_log_complement(torch.tensor([[0.0, 0.0], [100.0, 0.0]]), torch.tensor([0, 0]))
        tensor([  0.6931, 100.0000])
    """
    own = classes.unsqueeze(-1) == torch.arange(logits.shape[-1], device=logits.device)
    others = logits.masked_fill(own, -torch.inf).logsumexp(-1)
    return F.softplus(logits.gather(-1, classes.unsqueeze(-1)).squeeze(-1) - others)


def margin_disparity(
    logits: Tensor, predictions: Tensor, source: Tensor, target: Tensor, margin: float | Tensor = 4.0
) -> Tensor:
    r"""
    $\gamma \, \frac{1}{n_s} \sum_{s} -\log \sigma_{h(x)}(f'(x)) + \frac{1}{n_t} \sum_{t} -\log(1 -
    \sigma_{h(x)}(f'(x)))$, what an adversarial classifier $f'$ descends to agree with the predictions $h$ on the
    source and to disagree on the target. An exact zero with a graph where one side has no row.

    Each side is a mean of its own, so that their numbers of rows may differ.

    Args:
        logits (`Tensor`): `(N, C)`, of the adversarial classifier.
        predictions (`Tensor`): `(N,)` int64 in `[0, C)`, classes that the model predicts.
        source (`Tensor`): `(N,)` bool, rows of the source.
        target (`Tensor`): `(N,)` bool, rows of the target.
        margin (`float`, *optional*, defaults to 4.0): $\gamma$, dimensionless.

    Shape:
        - returns: scalar, in nats per row.

    Example:
        >>> sides = torch.tensor([True, False]), torch.tensor([False, True])
        >>> margin_disparity(torch.zeros(2, 2), torch.tensor([0, 1]), *sides).item()  # (4 + 1) log 2
        3.465735912322998

    Paper: Zhang et al., "Bridging Theory and Algorithm for Domain Adaptation", ICML 2019, https://huggingface.co/papers/1904.05801
    """
    agree = masked_mean(F.cross_entropy(logits, predictions, reduction="none"), source)
    disagree = masked_mean(negative_log_complement(logits, predictions), target)
    return (margin * agree + disagree) * (source.any() & target.any())
