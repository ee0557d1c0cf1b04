"""Queues of the last features of each class."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from hf_transfer.functional.task_loss import UNLABELLED


__all__ = ["ClassQueues"]


class ClassQueues(nn.Module):
    """
    The last `length` features of each class, in buffers: a checkpoint holds them.

    Args:
        num_classes (`int`): C.
        length (`int`): K, features kept of each class.
        width (`int`): D.

    Shape:
        - `keys`: `(C, K, D)` float32.
        - `seen`: `(C,)` int64, how many features of each class ever came in.

    Example:
        >>> queues = ClassQueues(num_classes=2, length=3, width=1)
        >>> queues.put(torch.tensor([[5.0], [6.0]]), torch.tensor([1, -100]))
        >>> keys, labels = queues.content()
        >>> keys[labels == 1].tolist()
        [[5.0]]
    """

    keys: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, length: int, width: int):
        super().__init__()
        self.register_buffer("keys", torch.zeros(num_classes, length, width))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.long))

    def content(self) -> tuple[Tensor, Tensor]:
        """All slots as `(C K, D)`, a copy, and their classes as `(C K,)`, -100 where a slot is still empty."""
        classes, length, _ = self.keys.shape
        filled = torch.arange(length, device=self.seen.device) < self.seen.unsqueeze(1)
        labels = torch.arange(classes, device=self.seen.device).unsqueeze(1)
        # A copy, because `put` writes into the buffer while the backward still needs what was read.
        return self.keys.flatten(0, 1).clone(), torch.where(filled, labels, UNLABELLED).flatten()

    @torch.no_grad()
    def put(self, features: Tensor, labels: Tensor) -> None:
        """
        Take in features, in place of the oldest of their classes.

        Args:
            features (`Tensor`): `(N, D)`.
            labels (`Tensor`): `(N,)` in [0, C); rows of -100 are left out.
        """
        classes, length, width = self.keys.shape
        # One class more, of which nothing is kept: what is left out is written behind the end.
        mine = torch.nn.functional.one_hot(torch.where(labels == UNLABELLED, classes, labels), classes + 1)
        mine = mine[:, :classes]
        number = (mine.cumsum(0) * mine).sum(-1) - 1  # the how many-th of its class in this batch
        counts = mine.sum(0)
        own = labels.clamp(min=0)
        # More than fit: only the last of a class are written, so that no slot is written twice.
        kept = (labels != UNLABELLED) & (number >= counts[own] - length)
        slot = own * length + (self.seen[own] + number) % length
        slot = torch.where(kept, slot, classes * length)
        flat = torch.cat([self.keys.flatten(0, 1), self.keys.new_zeros(1, width)])
        flat[slot] = features.to(flat.dtype)
        # In place: DDP holds on to the buffers it found when it was made.
        self.keys.copy_(flat[:-1].view_as(self.keys))
        self.seen.add_(counts)

    def gathered(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """
        The features and labels of all ranks, in the order of the ranks, so that every rank keeps the same queues.

        DDP would broadcast those of rank 0 before each forward, and drop what the others took in; FSDP2 would let
        them drift apart and save those of rank 0.
        """
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            return features, labels
        ranks = distributed.get_world_size()
        most = torch.tensor(len(labels), device=labels.device)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        missing = int(most) - len(labels)  # ranks may have different numbers of tokens
        features = torch.cat([features, features.new_zeros(missing, features.shape[1])]).contiguous()
        labels = torch.cat([labels, labels.new_full((missing,), UNLABELLED)]).contiguous()
        # Into lists: torch 2.13 deprecates `all_gather_into_tensor` for a function that torch 2.9 has not.
        all_features = [torch.empty_like(features) for _ in range(ranks)]
        all_labels = [torch.empty_like(labels) for _ in range(ranks)]
        distributed.all_gather(all_features, features)
        distributed.all_gather(all_labels, labels)
        return torch.cat(all_features), torch.cat(all_labels)
