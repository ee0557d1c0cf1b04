"""Options that the recipes on features share: what is read off the model, and where it is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from hf_transfer.data.augmentation import augmentation
from hf_transfer.features import extract_features
from hf_transfer.recipe_arguments import DataArguments


__all__ = ["FeatureArguments"]


@dataclass
class FeatureArguments:
    """How features are read off the frozen model."""

    _argument_group_name = "the features"

    pooling: str | None = field(
        default=None,
        metadata={
            "help": "How tokens or pixels become one row: cls, mean, last or none; by default as the model does for "
            "its head, mean for blocks."
        },
    )
    feature_dtype: str = field(
        default="float32",
        metadata={
            "help": "float16 computes and stores in half precision, bfloat16 computes in it and stores float32.",
            "choices": ["float32", "float16", "bfloat16"],
        },
    )
    feature_batch_size: int = field(
        default=32, metadata={"help": "Rows of a forward; the features do not depend on it."}
    )
    views: int = field(
        default=1,
        metadata={"help": "With --augmentation: how many augmented views of a training image are kept."},
    )
    cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the feature cache; by default hf_transfer/features in the Hugging Face home."},
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Compute the features even if they are cached."})

    def check(self, data_args: DataArguments) -> None:
        """Refuse augmentation without a number of views to store, and views without augmentation."""
        if self.views < 1:
            raise ValueError(f"`--views {self.views}` leaves no row to learn from. Give 1 or more.")
        if (self.views > 1) != (data_args.augmentation != "none"):
            raise ValueError(
                f"`--augmentation {data_args.augmentation}` with `--views {self.views}`: features are computed once, "
                "so it must be said how many random views of an image are kept, and several views need something "
                "random. Give both, or neither."
            )

    def extract(
        self,
        model: Any,
        split: Dataset,
        processor: Any,
        data_args: DataArguments,
        *,
        taps: Any = "head",
        training: bool = False,
        seed: int = 0,
    ) -> Dataset:
        """
        The features of a split of [`TransferData`], from the cache where they are.

        Args:
            model, processor: as [`ModelArguments.load`] returns them.
            split (`datasets.Dataset`): raw rows.
            data_args (`DataArguments`): longest text and augmentation.
            taps: as for [`extract_features`].
            training (`bool`, *optional*): whether these are training rows, whose views --views counts.
            seed (`int`, *optional*): draws the views.
        """
        views = self.views if training else 1
        return extract_features(
            model,
            split,
            processor,
            taps=taps,
            pooling=self.pooling,
            batch_size=self.feature_batch_size,
            max_length=data_args.max_length,
            dtype=self.feature_dtype,
            views=views,
            augment=augmentation(data_args.augmentation, processor) if views > 1 else None,
            seed=seed,
            cache_dir=self.cache_dir,
            overwrite=self.overwrite_cache,
        )
