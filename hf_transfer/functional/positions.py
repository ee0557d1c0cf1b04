"""Hidden states of two models on the same positions: tokens, patches or pixels of one size, or one mean a row."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hf_transfer.functional.source_knowledge import wide


# What may stand before the patches: nothing, the class token, one for distillation too, four registers (DINOv2).
_PREFIXES = (0, 1, 2, 5)

__all__ = ["Positions", "on_same_positions", "row_mean", "summary", "without_padding"]


class Positions(NamedTuple):
    """
    Hidden states of student and teacher, position by position.

    Attributes:
        states: `(B, P, D)`, at least float32.
        reference: `(B, P, E)`, at least float32.
        counted: `(B, P)` bool, false for padding, or `None` where every position counts.
    """

    states: Tensor
    reference: Tensor
    counted: Tensor | None


def on_same_positions(
    states: Tensor,
    reference: Tensor,
    *,
    mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    text: bool = False,
    aspect: float = 1.0,
) -> Positions:
    """
    Lay the hidden states of two models over each other.

    Equally many tokens are taken one by one. Maps, and the patches of tokens of images, are averaged to the smaller
    height and width (adaptive average pooling), for which tokens before the patches are left out. Where there is no
    grid, both become their mean over what counts. Padding is set to zero.

    Args:
        states (`Tensor`): `(B, T, D)`, `(B, D, H, W)` or `(B, D)`; receives the gradient.
        reference (`Tensor`): one of the same three, of any width and size.
        mask (`Tensor`, *optional*): `(B, T)`, nonzero for the tokens of `states` that count.
        reference_mask (`Tensor`, *optional*): the same for `reference`; by default `mask`, where it fits.
        text (`bool`, *optional*, defaults to `False`): whether tokens are of text, where position is identity.
        aspect (`float`, *optional*, defaults to 1.0): height of the images over their width, which tells the grid of
            their patches (dimensionless).

    Raises:
        ValueError: if tokens of text differ in number.

    Example:
        >>> maps, patches = torch.zeros(2, 8, 4, 4), torch.zeros(2, 1 + 2 * 2, 6)
        >>> [tuple(side.shape) for side in on_same_positions(maps, patches)[:2]]
        [(2, 4, 8), (2, 4, 6)]
    """
    reference_mask = mask if reference_mask is None else reference_mask
    if states.dim() != 4 and reference.dim() != 4:
        states, counted = without_padding(_as_tokens(states), mask)
        reference, other_counted = without_padding(_as_tokens(reference), reference_mask)
        if states.shape[1] == reference.shape[1]:
            return Positions(states, reference, counted if other_counted is None else other_counted)
        if text:
            raise ValueError(
                f"The student has {states.shape[1]} tokens a row and the teacher {reference.shape[1]}: they read the "
                "text through different tokenizers or lengths, and which token belongs to which is unknown. Give both "
                "the same tokenizer, or learn from what stands for the whole row: `EmbeddingDistillation` or "
                "`LogitDistillation`."
            )
    grid, other = _as_grid(states, aspect), _as_grid(reference, aspect)
    if grid is None or other is None:
        return Positions(_whole(states, mask), _whole(reference, reference_mask), None)
    height, width = (min(sizes) for sizes in zip(grid.shape[2:], other.shape[2:], strict=True))
    laid = [_averaged(side, height, width).flatten(2).transpose(1, 2) for side in (grid, other)]
    return Positions(laid[0], laid[1], None)


def without_padding(tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Tokens `(B, T, D)` with zeros where the mask, if it is over them, is zero, and the mask as bool."""
    if mask is None or mask.shape != tokens.shape[:2]:
        return wide(tokens), None
    counted = mask != 0
    # not a product: what stands at padding may be infinite or no number
    return torch.where(counted.unsqueeze(-1), wide(tokens), 0.0), counted


def row_mean(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """
    Mean over rows of the mean over the positions of a row that count; a row without any counts as zero.

    Args:
        values (`Tensor`): `(B, P)`.
        counted (`Tensor`, *optional*): `(B, P)` bool.

    Example:
        >>> row_mean(torch.tensor([[1.0, 9.0], [3.0, 5.0]]), torch.tensor([[True, False], [True, True]]))
        tensor(2.5000)
    """
    if counted is None:
        return values.mean()
    return (torch.where(counted, values, 0.0).sum(1) / counted.sum(1).clamp(min=1)).mean()


def summary(states: Tensor, position: Literal["first", "last", "mean"], mask: Tensor | None = None) -> Tensor:
    """
    One vector a row: the first token that counts, the last, or the mean; of maps always the mean.

    Args:
        states (`Tensor`): `(B, T, D)`, `(B, D, H, W)` or `(B, D)`.
        position (`str`): `"first"`, `"last"` or `"mean"`.
        mask (`Tensor`, *optional*): `(B, T)`, nonzero for the tokens that count; a row without any gives zeros.

    Shape:
        - returns `(B, D)`, at least float32.

    Example:
        >>> summary(torch.tensor([[[1.0], [2.0], [9.0]]]), "last", torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    if states.dim() == 4 or position == "mean":
        return _whole(states, mask).squeeze(1)
    tokens, counted = without_padding(_as_tokens(states), mask)
    if counted is None:
        return tokens[:, 0 if position == "first" else -1]
    places = torch.arange(tokens.shape[1], device=tokens.device)
    chosen = counted.long().argmax(1) if position == "first" else (places * counted).argmax(1)
    return tokens[torch.arange(len(tokens), device=tokens.device), chosen]


def _as_tokens(states: Tensor) -> Tensor:
    return states.unsqueeze(1) if states.dim() == 2 else states


def _whole(states: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over what counts, `(B, 1, D)`."""
    if states.dim() == 4:
        return wide(states).flatten(2).mean(2).unsqueeze(1)
    tokens, counted = without_padding(_as_tokens(states), mask)
    if counted is None:
        return tokens.mean(1, keepdim=True)
    return tokens.sum(1, keepdim=True) / counted.sum(1).clamp(min=1)[:, None, None]


def _as_grid(states: Tensor, aspect: float) -> Tensor | None:
    """Maps as they are, tokens as maps if they are the patches of an image of this shape."""
    if states.dim() == 4:
        return wide(states)
    tokens = wide(_as_tokens(states))
    for before in _PREFIXES:
        patches = tokens.shape[1] - before
        height = round(math.sqrt(max(patches, 0) * aspect))
        if height and patches % height == 0 and abs(height * height / (patches * aspect) - 1) < 1e-3:
            return tokens[:, before:].transpose(1, 2).unflatten(2, (height, patches // height))
    return None


def _averaged(grid: Tensor, height: int, width: int) -> Tensor:
    """Adaptive average pooling as two products: its own kernel has no deterministic backward on CUDA."""
    if grid.shape[2:] == (height, width):
        return grid
    return _windows(grid, 2, height) @ grid @ _windows(grid, 3, width).mT


def _windows(grid: Tensor, dim: int, count: int) -> Tensor:
    """`(count, size)`: what each of `count` windows over a dimension takes of its places."""
    size = grid.shape[dim]
    windows, places = torch.arange(count, device=grid.device), torch.arange(size, device=grid.device)
    first = torch.div(windows * size, count, rounding_mode="floor").unsqueeze(1)
    behind = torch.div((windows + 1) * size + count - 1, count, rounding_mode="floor").unsqueeze(1)
    inside = ((places >= first) & (places < behind)).to(grid.dtype)
    return inside / inside.sum(1, keepdim=True)
