"""Rows that are decoded when their batch is due: images, sound, or inputs stored as arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_transfer.features.extraction.text_rows import MASK, Batch
from hf_transfer.random_state import random_numbers_put_back


__all__ = ["FetchedWindow", "Views", "same", "seeded"]

_RANDOM = threading.Lock()  # the generators below are the process's own


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """The global generators of torch, NumPy and Python start from these numbers, and go on afterwards as before."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    # views are drawn on the CPU
    with _RANDOM, random_numbers_put_back(seed, accelerators=False):
        yield


@dataclass(frozen=True)
class Views:
    """
    A fixed number of augmented views per row, each the same whenever it is drawn.

    Args:
        count (`int`):
            Views per row.
        augment (`Callable`):
            Maps processed images `(B, 3, H, W)` to the same shape.
        seed (`int`):
            View `v` of row `i` is drawn with generators that start from `(seed, i, v)`.
    """

    count: int
    augment: Callable[[Tensor], Tensor]
    seed: int = 0

    def draw(self, image: Tensor, row: int, view: int) -> Tensor:
        """The view of one processed image."""
        with seeded(self.seed, row, view):
            return self.augment(image.unsqueeze(0).clone())[0]


class FetchedWindow:
    """
    Consecutive rows (or views of rows) of a data set that are fetched batch by batch.

    Rows whose inputs differ in size, such as recordings, are not padded, since what convolutions and norms make of
    padding enters the features: those of one size form a batch.

    Args:
        dataset (`datasets.Dataset`):
            Gives the model's inputs, by its transform or as arrays.
        rows (`range`):
            Rows of the data set, or where there are views numbers `row * views + view`.
        reads (`set[str]`):
            What the model reads.
        lengths (`np.ndarray`, *optional*):
            Lengths of the rows where known, so that equal ones meet.
        views (`Views`, *optional*):
            Augmented views.
        collator (`Callable`, *optional*):
            Makes a batch of a list of rows instead.
    """

    def __init__(
        self,
        dataset: Any,
        rows: range,
        reads: set[str],
        *,
        lengths: np.ndarray | None = None,
        views: Views | None = None,
        collator: Callable[[list[dict[str, Any]]], Any] | None = None,
    ):
        self.dataset, self.rows, self.reads = dataset, rows, reads
        self.lengths, self.views, self.collator = lengths, views, collator

    def __len__(self) -> int:
        return len(self.rows)

    def order(self) -> np.ndarray:
        """Positions in the order of the data set, or from the longest row to the shortest."""
        return np.arange(len(self.rows)) if self.lengths is None else np.argsort(-self.lengths, kind="stable")

    def token_labels(self) -> None:
        """None: such rows have no labels per token."""
        return None

    def collate(self, positions: np.ndarray) -> list[Batch]:
        """The rows at these positions as batches of inputs of one size."""
        numbers = positions + self.rows.start
        count = 1 if self.views is None else self.views.count
        wanted, inverse = np.unique(numbers // count, return_inverse=True)
        fetched = self.dataset[wanted.tolist()]
        if self.collator is not None:
            names = list(fetched)
            fetched = self.collator([{n: fetched[n][place] for n in names} for place in inverse])
            return [_batch(positions, {name: fetched[name] for name in fetched if name in self.reads})]
        inputs = {name: [_tensor(value) for value in fetched[name]] for name in fetched if name in self.reads}
        if self.views is None:
            inputs = {name: [values[place] for place in inverse] for name, values in inputs.items()}
        else:
            images = inputs["pixel_values"]
            inputs = {
                "pixel_values": [
                    self.views.draw(images[place], int(number) // count, int(number) % count)
                    for number, place in zip(numbers, inverse, strict=True)
                ]
            }
        groups: dict[Any, list[int]] = {}
        for place in range(len(positions)):
            groups.setdefault(tuple(values[place].shape for values in inputs.values()), []).append(place)
        return [
            _batch(positions[places], {name: torch.stack([rows[p] for p in places]) for name, rows in inputs.items()})
            for places in groups.values()
        ]


def _batch(positions: np.ndarray, inputs: dict[str, Any]) -> Batch:
    mask = inputs.get(MASK)
    return Batch(positions, inputs, mask if isinstance(mask, Tensor) and mask.dim() == 2 else None)


def _tensor(value: Any) -> Tensor:
    # `require`: rows that lie in a mapped file are read-only, which tensors are not
    return value if isinstance(value, Tensor) else torch.from_numpy(np.require(value, requirements="W"))


def same(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    """Whether two draws of the same rows are equal."""

    def equal(left: Any, right: Any) -> bool:
        return torch.equal(left, right) if isinstance(left, Tensor) else left == right

    return len(first) == len(second) and all(
        one.inputs.keys() == other.inputs.keys() and all(equal(one.inputs[n], other.inputs[n]) for n in one.inputs)
        for one, other in zip(first, second, strict=True)
    )
