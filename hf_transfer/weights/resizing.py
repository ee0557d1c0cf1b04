"""The two kinds of tables that have a meaning in another size: positions and vocabularies."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


RESIZABLE = ("positions", "vocabulary")
"""What `transfer_parameters(resize=...)` may name."""

__all__ = ["RESIZABLE", "Resizing", "find_resizing", "interpolate_positions"]

Grid = tuple[int, int]


class Resizing(NamedTuple):
    """How one table is brought to another size, in words and as a function of the old and the present table."""

    reason: str
    apply: Callable[[Tensor, Tensor], Tensor]


def interpolate_positions(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """
    Position embeddings of a grid of patches on another grid, by bicubic interpolation in float32.

    Embeddings in front of the grid (class token, distillation token) are kept as they are.

    Args:
        table (`Tensor`): `(..., P + h * w, D)` with P embeddings before the grid; `(1, N, D)` in ViT.
        old (`tuple[int, int]`): rows and columns of patches that the table has.
        new (`tuple[int, int]`): those that are wanted.

    Shape:
        - returns: as `table`, with `P + new[0] * new[1]` rows, of its type.

    Example:
        >>> interpolate_positions(torch.ones(1, 1 + 4, 8), (2, 2), (3, 5)).shape
        torch.Size([1, 16, 8])
    """
    *leading, rows, width = table.shape
    before = rows - old[0] * old[1]
    flat = table.reshape(-1, rows, width)
    grid = flat[:, before:].reshape(-1, *old, width).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid.float(), size=new, mode="bicubic", align_corners=False)
    grid = grid.permute(0, 2, 3, 1).reshape(len(flat), -1, width).to(table.dtype)
    return torch.cat([flat[:, :before], grid], dim=1).reshape(*leading, -1, width)


def find_resizing(
    base: nn.Module, name: str, tensor: Tensor, shape: tuple[int, ...], settings: Mapping[str, Any], wanted: Collection
) -> Resizing | None:
    """
    How the table `name` of a model is filled from one of another shape, or `None` where that is not defined.

    Args:
        base (`nn.Module`): the model.
        name (`str`): name of its parameter.
        tensor (`Tensor`): the parameter.
        shape (`tuple[int, ...]`): shape of the table in the checkpoint.
        settings (`Mapping`): configuration of the checkpoint; tells a grid that is not square.
        wanted (`Collection`): of [`RESIZABLE`].
    """
    here = tuple(tensor.shape)
    if len(shape) != len(here) or len(here) < 2 or shape[-1] != here[-1] or shape[:-2] != here[:-2]:
        return None
    old_rows, new_rows = shape[-2], here[-2]
    if "vocabulary" in wanted and tensor is _vocabulary(base):
        return _by_rows(old_rows, new_rows)
    if "positions" not in wanted or not _is_position_table(name):
        return None
    config = getattr(base, "config", None)
    if getattr(base, "main_input_name", "input_ids") != "pixel_values":
        # Models of another type may count from elsewhere: RoBERTa's first token has row 2, BERT's row 0.
        same = settings.get("model_type") in (None, getattr(config, "model_type", None))
        return _by_rows(old_rows, new_rows) if same and len(here) == 2 else None
    old, new = _grid(old_rows, settings), _grid(new_rows, config.to_dict() if config is not None else {})
    if old is None or new is None or old_rows - math.prod(old) != new_rows - math.prod(new):
        return None  # other tokens stand before the grid
    reason = f"bicubic, {old[0]} x {old[1]} to {new[0]} x {new[1]} patches"
    return Resizing(reason, lambda table, _: interpolate_positions(table, old, new))


def _by_rows(old: int, new: int) -> Resizing:
    rows = min(old, new)
    rest = f"; {new - old} rows stay as they are" if new > old else ""
    return Resizing(
        f"first {rows} of {old} rows{rest}", lambda table, now: torch.cat([table[:rows].to(now), now[rows:]])
    )


def _is_position_table(name: str) -> bool:
    return any(part.startswith(("position_embed", "pos_embed", "wpe", "embed_positions")) for part in name.split("."))


def _vocabulary(base: nn.Module) -> Tensor | None:
    find = getattr(base, "get_input_embeddings", None)
    if find is None or getattr(base, "main_input_name", "") != "input_ids":
        return None
    weight = getattr(find(), "weight", None)
    return getattr(getattr(find(), "base_layer", None), "weight", weight)  # below a PEFT layer


def _grid(rows: int, settings: Mapping[str, Any]) -> Grid | None:
    """Rows and columns of the patches: as configured, else the square that leaves at most two tokens before it."""
    sizes: list[Any] = [settings.get(key) for key in ("image_size", "patch_size")]
    pairs = [size if isinstance(size, (list, tuple)) else (size, size) for size in sizes]
    if all(len(pair) == 2 and all(isinstance(size, int) and size > 0 for size in pair) for pair in pairs):
        grid = pairs[0][0] // pairs[1][0], pairs[0][1] // pairs[1][1]
        if 0 <= rows - math.prod(grid) <= 2 and math.prod(grid):
            return grid
    for before in range(3):
        side = math.isqrt(max(rows - before, 0))
        if side and side * side == rows - before:
            return side, side
    return None
