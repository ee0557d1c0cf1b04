"""Images and sound decoded and processed once, and kept in memory for all runs while there is room."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset, DatasetInfo, Features, Value
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable
from torch import Tensor
from transformers.utils import logging

from hf_transfer.data.preparation import prepare


LIMIT = 1_000_000_000
"""Bytes of processed images and sound that a comparison keeps in memory."""

_PIXELS = "pixels"
_ROWS = 32  # decoded at a time

logger = logging.get_logger(__name__)

__all__ = ["LIMIT", "PixelCache", "with_augmentation"]


class PixelCache:
    """
    Keeps the processed images or sound of splits in memory, up to a limit for all of them; beyond it they stay lazy.

    Images must be of one size; recordings need not be.

    Args:
        limit (`int`, *optional*, defaults to 1e9): bytes.
    """

    def __init__(self, limit: int = LIMIT):
        self.limit, self.used = limit, 0

    def prepared(self, *splits: Dataset, processor: Any) -> list[Dataset]:
        """
        Splits as [`prepare`] returns them, without augmentation: all from memory, or all decoded when a batch is
        fetched, so that they can be mixed.

        Args:
            splits (`Dataset`): with the columns `image` or `audio` and, unless unlabelled, `label`.
            processor (`BaseImageProcessor` or `SequenceFeatureExtractor`): of the model.
        """
        lazy = [prepare(split, processor) for split in splits]
        first: Any = next((split for split in lazy if len(split)), None)
        if first is None:
            return lazy
        images = "image" in first.column_names
        name = "pixel_values" if images else processor.model_input_names[0]
        shape = tuple(first[0][name].shape)
        if not images:
            shape = (-1, *shape[1:])
        room, found = self.limit - self.used, []
        # one image tells of all: nothing is decoded in vain
        enough = not images or math.prod(shape) * 4 * sum(map(len, lazy)) <= room
        for split in lazy:
            kept = _kept(split, name, shape, room) if enough else None
            if kept is None:
                break
            found.append(kept[0])
            room -= kept[1]
        if len(found) == len(lazy):
            self.used = self.limit - room
            return found
        logger.info(
            "The processed inputs differ in size, or are more than the "
            f"{(self.limit - self.used) / 1e9:.1f} GB left in memory: each run decodes them."
        )
        return lazy


def with_augmentation(split: Dataset, augment: Callable[[Tensor], Tensor] | None) -> Dataset:
    """A split of images as [`PixelCache`] prepared it, with random changes of the images."""
    if augment is None:
        return split
    transform = split.format["format_kwargs"]["transform"]
    return split.with_transform(replace(transform, augment=augment))


@dataclass(frozen=True)
class _FromMemory:
    """Pickled into data loader workers, hence a class."""

    name: str
    shape: tuple[int, ...]
    augment: Callable[[Tensor], Tensor] | None = None

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        if _PIXELS not in batch:
            return batch
        rows = [torch.frombuffer(bytearray(row), dtype=torch.float32).view(self.shape) for row in batch.pop(_PIXELS)]
        if self.augment is not None:
            rows = list(torch.unbind(self.augment(torch.stack(rows))))
        return {**batch, self.name: rows}


def _decoded(split: Any, name: str, start: int) -> Any:
    """
    The processed inputs of some rows; `None` if they cannot be stacked.

    Raises:
        ValueError: if one of them cannot be read.
    """
    try:
        return split[start : start + _ROWS][name]
    except Exception:
        for row in range(start, min(start + _ROWS, len(split))):
            try:
                split[row]
            except Exception as error:
                what, why = ("image", "") if name == "pixel_values" else ("recording", f": {error}")
                raise ValueError(
                    f"The {what} in row {row} cannot be read ({type(error).__name__}{why}): every run would fail at "
                    "it. Repair the file, or drop the row."
                ) from error
        return None


def _kept(split: Dataset, name: str, shape: tuple[int, ...], room: int) -> tuple[Dataset, int] | None:
    """
    The split with its inputs in a column of bytes, and how many these are; `None` if they differ in shape or take more
    than `room`.
    """
    chunks, used = [], 0
    for start in range(0, len(split), _ROWS):
        rows = _decoded(split, name, start)
        if rows is None or any(not _fits(row, shape) for row in rows):
            return None
        used += sum(row.numel() * 4 for row in rows)
        if used > room:
            return None
        chunks.append(pa.array([row.contiguous().numpy().tobytes() for row in rows], pa.large_binary()))
    rest_names = [column for column in split.column_names if column not in ("image", "audio")]
    columns: dict[str, Any] = {_PIXELS: pa.chunked_array(chunks, pa.large_binary())}
    features: dict[str, Any] = {_PIXELS: Value("large_binary")}
    if rest_names:
        rest: Any = split.with_format("arrow", columns=rest_names)[:]
        columns |= {column: rest[column] for column in rest_names}
        features |= {column: split.features[column] for column in rest_names}
    kept = Dataset(
        InMemoryTable(pa.table(columns)),
        info=DatasetInfo(features=Features(features)),
        fingerprint=Hasher.hash([split._fingerprint, "pixels in memory"]),  # without one all pixels would be hashed
    )
    return kept.with_transform(_FromMemory(name, shape)), used


def _fits(row: Tensor, shape: tuple[int, ...]) -> bool:
    known = [wanted in (-1, own) for wanted, own in zip(shape, row.shape, strict=False)]
    return len(shape) == row.dim() and all(known) and row.dtype == torch.float32
