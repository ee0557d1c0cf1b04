"""Divergences of how two models relate the positions of a row: attention maps, and products of values."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_transfer.functional.source_knowledge import wide


__all__ = ["attention_divergence", "relation_divergence", "split_heads"]


def attention_divergence(maps: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""
    Divergence of attention maps from those of a reference:

    $$ \frac{1}{B} \sum_b \frac{1}{H |P_b|} \sum_{a=1}^{H} \sum_{p \in P_b}
    \operatorname{KL}\big(A^{ref}_{bap} \Vert A_{bap}\big) $$

    over the positions $P_b$ that count. What is compared are the distributions over positions that count and to which
    the map gives something: dropout sets entries to zero, and they are then left out of both sides, the rest scaled to
    a sum of 1. So the result is zero for equal maps under any dropout.

    Args:
        maps (`Tensor`): `(B, H, T, S)`, probabilities in the last dimension, as dropout left them; receives the
            gradient.
        reference (`Tensor`): the same shape; constant.
        mask (`Tensor`, *optional*): `(B, T)`, nonzero where a position counts; needs `S = T`.

    Shape:
        - returns: scalar, at least float32, in nats. A position none of whose entries is left, and an example without
          positions, count as zero.

    Example:
        >>> maps = torch.tensor([[[[0.5, 0.5]]]])
        >>> round(attention_divergence(maps, torch.tensor([[[[1.0, 0.0]]]])).item(), 4)  # log 2
        0.6931
        >>> attention_divergence(torch.tensor([[[[0.0, 2.0]]]]), maps).item()  # one of the two was dropped
        0.0
    """
    # Where the gradient of the logarithm, scaled up by dropout, stays finite in the type the map was made in.
    least = max(torch.finfo(maps.dtype).tiny, 1e-32)
    kept = maps > least
    if mask is not None:
        kept = kept & (mask != 0)[:, None, None, :]
    ours, theirs = (torch.where(kept, wide(side), 0.0) for side in (maps, reference.detach()))
    sums, reference_sums = ours.sum(-1, keepdim=True), theirs.sum(-1, keepdim=True)
    kept = kept & (reference_sums > least)
    logarithms, reference_logarithms = (
        torch.where(there, side, 1.0).log() - torch.where(kept, total, 1.0).log()
        for side, total, there in ((ours, sums, kept), (theirs, reference_sums, kept & (theirs > 0)))
    )
    shares = theirs / torch.where(reference_sums > least, reference_sums, 1.0)
    rows = torch.where(kept & (theirs > 0), shares * (reference_logarithms - logarithms), 0.0).sum(-1)
    return _mean(rows, mask)


def relation_divergence(vectors: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""
    Divergence of the relations within two sets of vectors:

    $$ \frac{1}{B} \sum_b \frac{1}{H |P_b|} \sum_{a=1}^{H} \sum_{p \in P_b} \operatorname{KL}\big(R^{ref}_{bap} \Vert
    R_{bap}\big), \qquad R_{ba} = \operatorname{softmax}\left(\frac{V_{ba} V_{ba}^\top}{\sqrt{d}}\right) $$

    with the softmax over the positions $P_b$ that count.

    Args:
        vectors (`Tensor`): $V$, `(B, H, T, d)`; receives the gradient.
        reference (`Tensor`): `(B, H, T, e)`, of any width; constant.
        mask (`Tensor`, *optional*): `(B, T)`, nonzero where a position counts.

    Shape:
        - returns: scalar, at least float32, in nats. An example without positions counts as zero.

    Example:
        >>> relation_divergence(torch.ones(1, 1, 2, 4), torch.zeros(1, 1, 2, 9)).item()  # all alike in both
        0.0
    """
    ours, theirs = (_log_relations(wide(side), mask) for side in (vectors, reference.detach()))
    return _mean((theirs.exp() * (theirs - ours)).sum(-1), mask)


def split_heads(vectors: Tensor, heads: int) -> Tensor:
    """
    `(B, T, H d)` to `(B, H, T, d)`.

    Example:
        >>> split_heads(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), 2).tolist()
        [[[[1.0, 2.0]], [[3.0, 4.0]]]]
    """
    return vectors.unflatten(-1, (heads, -1)).transpose(1, 2)


def _log_relations(vectors: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:  # padding may hold anything
        vectors = torch.where((mask != 0)[:, None, :, None], vectors, 0.0)
    scores = vectors @ vectors.mT / math.sqrt(vectors.shape[-1])
    if mask is None:
        return F.log_softmax(scores, -1)
    # The lowest finite number, not minus infinity: an example without any position must not become NaN.
    counted = (mask != 0)[:, None, None, :]
    scores = torch.where(counted, scores, torch.finfo(scores.dtype).min)
    # Below any probability, alike in both.
    return torch.where(counted, F.log_softmax(scores, -1), -1e4)


def _mean(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Over heads, then the positions of an example that count, then examples."""
    rows = rows.mean(1)
    if mask is None:
        return rows.mean()
    counted = mask != 0
    return (torch.where(counted, rows, 0.0).sum(1) / counted.sum(1).clamp(min=1)).mean()
