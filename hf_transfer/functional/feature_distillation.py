"""How far hidden states are from a teacher's: vector by vector, by direction, and by where their energy lies."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_transfer.functional.positions import Positions, row_mean
from hf_transfer.functional.source_knowledge import wide


Distance = Literal["mse", "cosine"]
_FLAT = 1e-8  # vectors with no larger value have no direction

__all__ = ["Distance", "attention_transfer", "direction", "energy", "vector_distance", "vector_distances"]


def direction(vectors: Tensor, dim: int = -1) -> Tensor:
    r"""
    $v / \lVert v \rVert_2$. A vector without a value above 1e-8 in size has no direction: it gives zeros and takes no
    gradient.

    Args:
        vectors (`Tensor`): of any shape; at least float32 comes back.
        dim (`int`, *optional*, defaults to -1): the dimension of a vector.

    Example:
        >>> direction(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    vectors = wide(vectors)
    peak = vectors.detach().abs().amax(dim, keepdim=True)
    flat = peak <= _FLAT
    scaled = vectors / torch.where(flat, 1.0, peak)  # neither the squares nor their sum then overflow or vanish
    length = torch.where(flat, 1.0, scaled.square().sum(dim, keepdim=True)).sqrt()
    return torch.where(flat, 0.0, scaled / length)


def vector_distances(
    vectors: Tensor, reference: Tensor, distance: Distance = "mse", *, normalize: bool = False
) -> Tensor:
    r"""
    The distance of each vector to its reference.

    $$ \text{mse}: \frac{1}{D} \lVert v - r \rVert_2^2 \qquad \text{cosine}: 1 - \cos(v, r) = \tfrac12 \Big\lVert
    \frac{v}{\lVert v \rVert} - \frac{r}{\lVert r \rVert} \Big\rVert_2^2 $$

    Args:
        vectors (`Tensor`): `(..., D)`; receives the gradient.
        reference (`Tensor`): the same shape; constant.
        distance (`str`, *optional*, defaults to `"mse"`): `"mse"` or `"cosine"`.
        normalize (`bool`, *optional*, defaults to `False`): whether to bring the values of each vector, on both sides,
            to mean 0 and variance 1 first.

    Shape:
        - returns `(...)`, at least float32. A vector of zeros has no direction: its cosine distance is 1/2, without a
          gradient.

    Example:
        >>> vector_distances(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), "cosine")
        tensor([1.])
    """
    vectors, reference = wide(vectors), wide(reference.detach())
    if normalize:
        vectors, reference = (F.layer_norm(side, side.shape[-1:]) for side in (vectors, reference))
    if distance == "mse":
        return (vectors - reference).square().mean(-1)
    # as a squared difference it is an exact zero for equal vectors, and keeps its digits near it
    return (direction(vectors) - direction(reference)).square().sum(-1) / 2


def vector_distance(
    vectors: Tensor,
    reference: Tensor,
    counted: Tensor | None = None,
    *,
    distance: Distance = "mse",
    normalize: bool = False,
) -> Tensor:
    """
    Mean over rows of the mean distance over the positions that count.

    Args:
        vectors (`Tensor`): `(B, P, D)`; receives the gradient.
        reference (`Tensor`): the same shape; constant.
        counted (`Tensor`, *optional*): `(B, P)` bool; a row without any counts as zero.
        distance (`str`, *optional*, defaults to `"mse"`): as for [`vector_distances`].
        normalize (`bool`, *optional*, defaults to `False`): as for [`vector_distances`].

    Example:
        >>> vector_distance(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), torch.tensor([[True, False]]))
        tensor(1.)
    """
    return row_mean(vector_distances(vectors, reference, distance, normalize=normalize), counted)


def energy(states: Tensor, p: float = 2.0, mask: Tensor | None = None) -> Tensor:
    r"""
    The attention map of hidden states: $q_p = \frac1D \sum_d |a_{pd}|^p$ at each position, times a number of its row
    that keeps it in range; its direction is that of the map.

    Args:
        states (`Tensor`): `(B, T, D)` or `(B, D, H, W)`.
        p (`float`, *optional*, defaults to 2.0): the power, at least 1 (dimensionless).
        mask (`Tensor`, *optional*): `(B, T)`, nonzero for the tokens that count; zero energy for the others.

    Shape:
        - returns `(B, T, 1)` or `(B, 1, H, W)`, at least float32.

    Example:
        >>> energy(torch.tensor([[[1.0, 1.0], [0.0, 2.0]]])).flatten()
        tensor([0.2500, 0.5000])
    """
    states = wide(states)
    if mask is not None and states.dim() == 3 and mask.shape == states.shape[:2]:
        states = torch.where((mask != 0).unsqueeze(-1), states, 0.0)
    peak = states.detach().abs().flatten(1).amax(1).clamp(min=_FLAT)
    scaled = states / peak.view(-1, *(1 for _ in states.shape[1:]))
    return scaled.abs().pow(p).mean(1 if states.dim() == 4 else -1, keepdim=True)


def attention_transfer(maps: Positions) -> Tensor:
    r"""
    $\frac{1}{B} \sum_i \frac{1}{P_i} \lVert q_i / \lVert q_i \rVert - r_i / \lVert r_i \rVert \rVert_2^2$ for maps
    $q_i$ of the student and $r_i$ of the teacher over the $P_i$ positions that count.

    Args:
        maps (`Positions`): of [`energy`], one value a position; zero where a position does not count.

    Example:
        >>> ours, theirs = torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.0], [2.0]]])
        >>> attention_transfer(Positions(ours, theirs, None))
        tensor(1.)
    """
    difference = direction(maps.states.squeeze(-1)) - direction(maps.reference.squeeze(-1).detach())
    return row_mean(difference.square(), maps.counted)
