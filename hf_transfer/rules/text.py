"""The token ids of a batch, and a clause of it as a batch of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_transfer.batch import TransferBatch


__all__ = ["compact", "text_of"]


def text_of(batch: TransferBatch, rule: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """
    `input_ids`, `attention_mask` as bool (all true if there is none) and `token_type_ids` (if there are any), each
    `(B, T)`.

    Raises:
        ValueError: if the batch has no `input_ids`.
    """
    if batch.inputs.get("input_ids") is None:
        present = ", ".join(sorted(batch.inputs)) or "nothing"
        raise ValueError(
            f"Rule `{rule}` reads words, and the model is called with {present}: there are no `input_ids` to find "
            "them in. Use it with a text model, or write a `Rule` on what the batch has."
        )
    input_ids = batch.inputs["input_ids"]
    mask = batch.inputs.get("attention_mask")
    if mask is None or mask.shape != input_ids.shape:
        mask = torch.ones_like(input_ids)
    return input_ids, mask.bool(), batch.inputs.get("token_type_ids")


def compact(values: Tensor, keep: Tensor, fill: int) -> Tensor:
    """
    The entries of each row that are kept, moved to the left; `fill` behind them. The shape stays.

    Args:
        values (`Tensor`): `(B, T)`.
        keep (`Tensor`): `(B, T)` bool.
        fill (`int`): what stands behind.

    Example:
        >>> compact(torch.tensor([[5, 6, 7, 8]]), torch.tensor([[True, False, False, True]]), 0)
        tensor([[5, 8, 0, 0]])
    """
    length = values.shape[1]
    place = torch.where(keep, keep.long().cumsum(1) - 1, length)  # what is dropped goes to a column beyond
    return F.pad(torch.full_like(values, fill), (0, 1)).scatter(1, place, values)[:, :length]
