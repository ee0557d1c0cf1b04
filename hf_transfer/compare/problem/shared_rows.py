"""The rows of a comparison as one base model takes them: prepared once, features extracted once, for all runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from datasets import Dataset
from torch import Tensor

from hf_transfer.compare.problem.pixel_cache import PixelCache, with_augmentation
from hf_transfer.compare.problem.pretrained import Pretrained
from hf_transfer.data.loading import TransferData
from hf_transfer.data.preparation import prepare
from hf_transfer.features import extract_features
from hf_transfer.recipe_arguments import DataArguments


__all__ = ["SharedRows"]


@dataclass
class SharedRows:
    """
    Splits of a comparison as one base model takes them.

    Args:
        base (`Pretrained`): the model.
        data (`TransferData`): labelled rows: what trains, validates and tests.
        target (`Dataset`, *optional*): unlabelled rows of the target.
        data_args (`DataArguments`): longest text, augmentation.
        pixels (`PixelCache`): keeps processed images and sound.
        cache_dir (`str` or path, *optional*): of the features.
    """

    base: Pretrained
    data: TransferData
    target: Dataset | None
    data_args: DataArguments
    pixels: PixelCache
    cache_dir: str | os.PathLike[str] | None = None
    _features: dict[tuple[str, int], Dataset] = field(default_factory=dict)

    @property
    def raw(self) -> dict[str, Dataset]:
        """Splits as they were read, by name."""
        splits = {
            "train": self.data.train,
            "validation": self.data.eval,
            "test": self.data.test,
            "target": self.target,
        }
        return {name: split for name, split in splits.items() if split is not None}

    @cached_property
    def prepared(self) -> dict[str, Dataset]:
        """The same as the model takes them, without augmentation."""
        raw = self.raw
        if self.data.input_columns in (("image",), ("audio",)):
            return dict(zip(raw, self.pixels.prepared(*raw.values(), processor=self.base.processor), strict=True))
        ready: Callable[[Dataset], Dataset] = partial(
            prepare, processor=self.base.processor, max_length=self.data_args.max_length
        )
        return {name: ready(split) for name, split in raw.items()}

    def read_all(self) -> None:
        """
        Prepare all rows now.

        Raises:
            ValueError: if one of them cannot be read.
        """
        _ = self.prepared

    def training(self, name: str = "train") -> Dataset:
        """A split to train on, with augmentation."""
        return with_augmentation(self.prepared[name], self.augment)

    @cached_property
    def augment(self) -> Callable[[Tensor], Tensor] | None:
        """Of training images."""
        return self.data_args.augment(self.data, self.base.processor)

    def features(self, split: str, *, seed: int, device: torch.device, batch_size: int = 32) -> Dataset:
        """
        What the head of the base model is given for every row of a split.

        Args:
            split (`str`): `train`, `validation` or `test`.
            seed (`int`): of the run, on which they depend if something before the head is new.
            device (`torch.device`): where the model runs.
            batch_size (`int`, *optional*, defaults to 32): most rows of a forward.
        """
        seed = seed if self.base.new_neck else 0
        if (split, seed) not in self._features:
            self._features[split, seed] = extract_features(
                self.base.fresh(seed).to(device),
                self.raw[split],
                self.base.processor,
                batch_size=batch_size,
                max_length=self.data_args.max_length,
                cache_dir=self.cache_dir,
                progress=False,
            )
        return self._features[split, seed]
