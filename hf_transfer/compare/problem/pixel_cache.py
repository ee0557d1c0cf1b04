"""Images decoded and processed once, and kept in memory for all runs while there is room."""

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
"""Bytes of processed images that a comparison keeps in memory."""

_PIXELS = "pixels"
_ROWS = 32  # decoded at a time

logger = logging.get_logger(__name__)

__all__ = ["LIMIT", "PixelCache", "with_augmentation"]


class PixelCache:
    """
    Keeps the processed images of splits in memory, up to a limit for all of them; beyond it they stay lazy.

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
            splits (`Dataset`): with the columns `image` and, unless unlabelled, `label`.
            processor (`BaseImageProcessor`): of the model.
        """
        lazy = [prepare(split, processor) for split in splits]
        first: Any = next((split for split in lazy if len(split)), None)
        size = 0 if first is None else math.prod(first[0]["pixel_values"].shape) * 4 * sum(map(len, lazy))
        if first is None or self.used + size > self.limit:
            left = self.limit - self.used
            logger.info(
                f"Processed images take {size / 1e9:.1f} GB, more than the {left / 1e9:.1f} GB left in memory: "
                "each run decodes them."
            )
            return lazy
        shape = tuple(first[0]["pixel_values"].shape)
        found = [_kept(split, shape) for split in lazy]
        if any(split is None for split in found):
            logger.info("The processed images differ in size: they are decoded in every run.")
            return lazy
        self.used += size
        return [split for split in found if split is not None]


def with_augmentation(split: Dataset, augment: Callable[[Tensor], Tensor] | None) -> Dataset:
    """A split of images as [`PixelCache`] prepared it, with random changes of the images."""
    if augment is None:
        return split
    transform = split.format["format_kwargs"]["transform"]
    return split.with_transform(replace(transform, augment=augment))


@dataclass(frozen=True)
class _FromMemory:
    """Pickled into data loader workers, hence a class."""

    shape: tuple[int, ...]
    augment: Callable[[Tensor], Tensor] | None = None

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        if _PIXELS not in batch:
            return batch
        rows = [torch.frombuffer(bytearray(row), dtype=torch.float32).view(self.shape) for row in batch.pop(_PIXELS)]
        if self.augment is not None:
            rows = list(torch.unbind(self.augment(torch.stack(rows))))
        return {**batch, "pixel_values": rows}


def _decoded(split: Any, start: int) -> Any:
    """
    The processed images of some rows; `None` if they cannot be stacked.

    Raises:
        ValueError: if one of them is no image.
    """
    try:
        return split[start : start + _ROWS]["pixel_values"]
    except Exception:
        for row in range(start, min(start + _ROWS, len(split))):
            try:
                split[row]
            except Exception as error:
                raise ValueError(
                    f"The image in row {row} cannot be read ({type(error).__name__}): every run would fail at it. "
                    "Repair the file, or drop the row."
                ) from error
        return None


def _kept(split: Dataset, shape: tuple[int, ...]) -> Dataset | None:
    """The split with its pixels in a column of bytes; `None` if images differ in shape."""
    chunks = []
    for start in range(0, len(split), _ROWS):
        pixels = _decoded(split, start)
        if pixels is None or any(tuple(row.shape) != shape or row.dtype != torch.float32 for row in pixels):
            return None
        chunks.append(pa.array([row.contiguous().numpy().tobytes() for row in pixels], pa.large_binary()))
    names = [name for name in split.column_names if name != "image"]
    columns: dict[str, Any] = {_PIXELS: pa.chunked_array(chunks, pa.large_binary())}
    features: dict[str, Any] = {_PIXELS: Value("large_binary")}
    if names:
        rest: Any = split.with_format("arrow", columns=names)[:]
        columns |= {name: rest[name] for name in names}
        features |= {name: split.features[name] for name in names}
    kept = Dataset(
        InMemoryTable(pa.table(columns)),
        info=DatasetInfo(features=Features(features)),
        fingerprint=Hasher.hash([split._fingerprint, "pixels in memory"]),  # without one all pixels would be hashed
    )
    return kept.with_transform(_FromMemory(shape))
