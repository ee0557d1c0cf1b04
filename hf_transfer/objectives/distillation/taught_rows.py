"""One row per example of what a teacher returned."""

from __future__ import annotations

from torch import Tensor

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.relations import example_rows
from hf_transfer.teacher.tokens import PREFIX


__all__ = ["teacher_mask", "teacher_rows"]


def teacher_mask(batch: TransferBatch) -> Tensor | None:
    """The attention mask over the teacher's own tokens, where it has another tokenizer than the student."""
    return batch.columns.get(f"{PREFIX}attention_mask")


def teacher_rows(features: Tensor, batch: TransferBatch) -> Tensor:
    """
    The features `(B, E)` of the teacher; of tokens `(B, T, E)` their mean over those that count.

    Example:
        >>> import torch
        >>> batch = TransferBatch(features=torch.zeros(1, 2, 4), attention_mask=torch.tensor([[1, 0]]))
        >>> teacher_rows(torch.tensor([[[1.0], [9.0]]]), batch)
        tensor([[1.]])
    """
    own = teacher_mask(batch)
    return example_rows(features, batch.attention_mask if own is None else own)
