"""How the rows of a batch stand to each other: distances, angles and similarities, of a student and of a teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hf_transfer.functional.contrastive import unit
from hf_transfer.functional.source_knowledge import wide


ANGLE_ELEMENTS = 2**24
"""Elements of the largest tensor that the angles are computed with; more rows are taken anchor by anchor."""

__all__ = ["ANGLE_ELEMENTS", "angle_differences", "distance_differences", "example_rows", "similarity_differences"]


def example_rows(states: Tensor, mask: Tensor | None = None) -> Tensor:
    """
    One row per example, at least float32: of tokens the mean over those that count, of maps all values in a line.

    Args:
        states (`Tensor`): `(B, T, D)`, `(B, D, H, W)` or `(B, D)`.
        mask (`Tensor`, *optional*): `(B, T)`, nonzero where a token counts; ignored where the states have no such
            positions. Padding has no influence, and an example without a token is a row of zeros.

    Shape:
        - returns `(B, D)`, or `(B, D H W)` for maps.

    Example:
        >>> example_rows(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    states = wide(states)
    if states.dim() != 3:
        return states.flatten(1)
    if mask is None or mask.shape != states.shape[:2]:
        return states.mean(1)
    counted = (mask != 0).unsqueeze(-1)
    return torch.where(counted, states, 0.0).sum(1) / counted.sum(1).clamp(min=1)


def distance_differences(rows: Tensor, reference: Tensor) -> Tensor:
    r"""
    Smooth L1 between the distances within two sets of rows, mean over the pairs:

    $$ \frac{1}{B (B - 1)} \sum_{i \ne j} \ell\!\left(\frac{\lVert s_i - s_j \rVert}{\mu_s},
    \frac{\lVert t_i - t_j \rVert}{\mu_t}\right) $$

    with the mean positive distance $\mu$ of each set and $\ell(a, b) = \frac{1}{2} (a - b)^2$ where
    $|a - b| < 1$, else $|a - b| - \frac{1}{2}$.

    Args:
        rows (`Tensor`): `(B, D)`; receives the gradient, also through $\mu_s$.
        reference (`Tensor`): `(B, E)`; constant.

    Shape:
        - returns: scalar, dimensionless; an exact zero with a graph for fewer than two rows. Equal rows have a
          distance without a gradient.

    Example:
        >>> distance_differences(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0], [6.0]])).item()
        0.0
    """
    difference = F.smooth_l1_loss(
        _relative_distances(wide(rows)), _relative_distances(wide(reference.detach())), reduction="sum"
    )
    count = len(rows)
    return difference / max(count * (count - 1), 1)


def _relative_distances(rows: Tensor) -> Tensor:
    # differences are squared, not expanded: equal rows then are at an exact zero, where this gradient is zero
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    positive = distances > 0
    mean = torch.where(positive, distances, 0.0).sum() / positive.sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)


def angle_differences(rows: Tensor, reference: Tensor) -> Tensor:
    r"""
    Smooth L1 between the cosines of the angles within two sets of rows, mean over the triples of different rows:

    $$ \frac{1}{B (B - 1) (B - 2)} \sum_{i \ne j \ne k \ne i} \ell\big(\cos \angle s_i s_j s_k,
    \cos \angle t_i t_j t_k\big) $$

    There are $B^3$ of them. Where they or the differences they are made of, $B^2 \max(B, D)$ numbers, are more than
    [`ANGLE_ELEMENTS`], anchors $j$ are taken a few at a time and computed again in the backward: memory is then
    that of [`ANGLE_ELEMENTS`] numbers, a few times over, for one forward more of this function.

    Args:
        rows (`Tensor`): `(B, D)`; receives the gradient.
        reference (`Tensor`): `(B, E)`; constant.

    Shape:
        - returns: scalar, dimensionless; an exact zero with a graph for fewer than three rows. An angle at or towards
          an equal row has a cosine of zero without a gradient.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> angle_differences(square, 4 * square).item()  # scaled: no angle has changed
        0.0
    """
    rows, reference = wide(rows), wide(reference.detach())
    count, width = len(rows), max(len(rows), rows.shape[-1], reference.shape[-1])
    some = max(ANGLE_ELEMENTS // max(count * width, 1), 1)
    if some >= count:
        total = _angles(rows, reference, 0, count)
    else:
        total = (0 * rows).sum()
        for first in range(0, count, some):
            chunk = (rows, reference, first, min(first + some, count))
            total = total + checkpoint(_angles, *chunk, use_reentrant=False, preserve_rng_state=False)
    return total / max(count * (count - 1) * (count - 2), 1)


def _angles(rows: Tensor, reference: Tensor, first: int, last: int) -> Tensor:
    """The sum over the anchors from `first` to `last`."""
    cosines, reference_cosines = (_cosines(side, first, last) for side in (rows, reference))
    differences = F.smooth_l1_loss(cosines, reference_cosines, reduction="none")
    # Only i = k is left to take out: an edge from an anchor to itself is zero in both sets.
    same = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return differences.masked_fill(same, 0.0).sum()


def _cosines(rows: Tensor, first: int, last: int) -> Tensor:
    edges = unit(rows.unsqueeze(0) - rows[first:last].unsqueeze(1))  # (anchors, B, D)
    return edges @ edges.mT


def similarity_differences(rows: Tensor, reference: Tensor) -> Tensor:
    r"""
    Squared distance of the similarities within two sets of rows:

    $$ \frac{1}{B^2} \lVert G_s - G_t \rVert_F^2, \qquad G = \operatorname{rows}_2(A A^\top) $$

    where every row of the matrix of inner products is divided by its length.

    Args:
        rows (`Tensor`): `(B, D)`; receives the gradient.
        reference (`Tensor`): `(B, E)`; constant.

    Shape:
        - returns: scalar, dimensionless. One row is as similar to itself as can be: an exact zero with a graph. A row
          of zeros is similar to nothing, itself included, and gets no gradient.

    Example:
        >>> similarity_differences(torch.eye(2), 5 * torch.eye(2)).item()
        0.0
        >>> round(similarity_differences(torch.eye(2), torch.ones(2, 3)).item(), 4)  # 2 - sqrt 2
        0.2929
    """
    differences = _similarities(wide(rows)) - _similarities(wide(reference.detach()))
    return differences.square().sum() / max(len(rows), 1) ** 2


def _similarities(rows: Tensor) -> Tensor:
    # A common factor changes nothing, and keeps squares of products of large activations in the range of float32.
    scale = rows.detach().abs().amax() if rows.numel() else rows.new_ones(())
    rows = rows / torch.where(scale > 0, scale, 1.0)
    return unit(rows @ rows.mT)
