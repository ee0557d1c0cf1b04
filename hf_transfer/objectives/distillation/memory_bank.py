"""A memory of what student and teacher made of single rows."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from hf_transfer.functional.contrastive import unit
from hf_transfer.functional.task_loss import UNLABELLED


EMPTY = torch.iinfo(torch.int64).min
"""The owner of a slot that holds nothing."""

__all__ = ["EMPTY", "MemoryBank", "gathered"]


class MemoryBank(nn.Module):
    """
    Embeddings of rows by both models, in buffers: a checkpoint holds them. The row of number `i` has the slot
    `i mod size`, and each slot knows whose it is: what it holds of another row is replaced, what it holds of the same
    row moves towards the new embedding.

    Args:
        size (`int`): M, slots. With no more rows than that each has its own.
        width (`int`): E.

    Shape:
        - `student`, `teacher`: `(M, E)` float32, of length 1 where there is an owner.
        - `owner`: `(M,)` int64, the number of the row, or [`EMPTY`].
        - `labels`: `(M,)` int64, -100 where the row has no class.

    Example:
        >>> bank = MemoryBank(size=3, width=1)
        >>> one = torch.ones(1, 1)
        >>> bank.put(torch.tensor([4]), torch.tensor([7]), one, one)
        >>> (bank.owner != EMPTY).tolist(), bank.labels.tolist()
        ([False, True, False], [-100, 7, -100])
    """

    student: Tensor
    teacher: Tensor
    owner: Tensor
    labels: Tensor

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("student", torch.zeros(size, width))
        self.register_buffer("teacher", torch.zeros(size, width))
        self.register_buffer("owner", torch.full((size,), EMPTY))
        self.register_buffer("labels", torch.full((size,), UNLABELLED))

    @torch.no_grad()
    def put(self, index: Tensor, labels: Tensor, student: Tensor, teacher: Tensor, momentum: float = 0.0) -> None:
        """
        Take in the embeddings of rows; of a row that is there twice, or of two for one slot, the last.

        Args:
            index (`Tensor`): `(N,)` int64, numbers of the rows; rows of [`EMPTY`] are left out.
            labels (`Tensor`): `(N,)` int64.
            student, teacher (`Tensor`): `(N, E)`, of length 1.
            momentum (`float`, *optional*, defaults to 0.0): share of what the slot already holds of the same row.
        """
        slot, position = index.remainder(len(self.owner)), torch.arange(len(index), device=index.device)
        # Every row writes what the last row for its slot has, or, where there is none, what is there: a slot that is
        # written twice is written the same.
        rivals = (slot.unsqueeze(1) == slot) & (index != EMPTY)
        last = torch.where(rivals, position, -1).amax(1)
        kept, last = last >= 0, last.clamp(min=0)
        known = (self.owner[slot] == index).unsqueeze(1)
        for bank, fresh in ((self.student, student), (self.teacher, teacher)):
            fresh = fresh.to(bank.dtype)
            moved = unit(momentum * bank[slot] + (1 - momentum) * fresh)
            bank[slot] = torch.where(kept.unsqueeze(1), torch.where(known, moved, fresh)[last], bank[slot])
        self.owner[slot] = torch.where(kept, index[last], self.owner[slot])
        self.labels[slot] = torch.where(kept, labels[last], self.labels[slot])

    def content(self) -> tuple[Tensor, Tensor]:
        """The embeddings by both models, copies: `put` writes while a backward still needs what was read."""
        return self.student.clone(), self.teacher.clone()

    def negatives(self, index: Tensor, labels: Tensor | None = None) -> Tensor:
        """
        Which slots hold a negative of which row: `(N, M)` bool. Never one that the row itself owns, nor an empty one.

        Args:
            index (`Tensor`): `(N,)` int64, numbers of the rows.
            labels (`Tensor`, *optional*): `(N,)` int64; if given, slots of the same class are no negatives either.
                Where one of the two has no class (-100) only the number decides.
        """
        others = (self.owner != index.unsqueeze(1)) & (self.owner != EMPTY)
        if labels is None:
            return others
        return others & ((self.labels != labels.unsqueeze(1)) | (self.labels == UNLABELLED))


def gathered(index: Tensor, labels: Tensor, *embeddings: Tensor) -> tuple[Tensor, ...]:
    """
    The same of all ranks, in the order of the ranks, so that every rank keeps the same memory.

    DDP would broadcast that of rank 0 before each forward, and drop what the others took in.

    Args:
        index, labels (`Tensor`): `(N,)` int64; ranks may have different numbers of rows.
        embeddings (`Tensor`): `(N, E)`.
    """
    given = (index, labels, *embeddings)
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return given
    ranks = distributed.get_world_size()
    most = torch.tensor(len(index), device=index.device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    missing = int(most) - len(index)
    found = []
    for number, tensor in enumerate(given):
        fill = EMPTY if number == 0 else 0
        tensor = torch.cat([tensor, tensor.new_full((missing, *tensor.shape[1:]), fill)]).contiguous()
        # Into lists: torch 2.13 deprecates `all_gather_into_tensor` for a function that torch 2.9 has not.
        parts = [torch.empty_like(tensor) for _ in range(ranks)]
        distributed.all_gather(parts, tensor)
        found.append(torch.cat(parts))
    return tuple(found)
