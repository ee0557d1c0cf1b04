"""The data side of consistency: a collator that delivers a second, strongly augmented view of rows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.random_state import random_numbers_put_back


Augment = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]

__all__ = ["StrongImages", "TwoViewsCollator"]


class TwoViewsCollator:
    """
    A collator for [`FixMatch`]: the batch as it is, and beside it a strongly augmented view of its unlabelled rows.

    The weak view stands under the model's own input names. The strong one is a dictionary under `strong_view`, with
    the same names and with `row`, the numbers of its rows in the batch; an attached model takes it out of its inputs,
    so that evaluation with the same collator works. It is made after unused columns have been removed.

    Args:
        processor (`PreTrainedTokenizerBase` or image processor):
            The model's own. Text is padded with it.
        collator (`Callable`, *optional*):
            Makes a batch of rows; by default what the recipes take, `collator_for(processor)`.
        strong (`Callable`, *optional*):
            Maps a dictionary of the model's inputs to one of the same names and shapes; by default `TokenNoise` for
            text and [`StrongImages`] for images.
        weak (`Callable`, *optional*):
            The same for the weak view, which the strong one is made of; by default the rows as they are read. For
            photographs the paper flips and shifts: load them with an `augment` of `prepare`.
        rows (`"unlabelled"` or `"all"`, *optional*, defaults to `"unlabelled"`):
            Which rows get a strong view. With all, batches always have one shape and can be cut to pieces.

    Raises:
        ValueError: if `rows` is neither; at the first batch if there are no labels to tell unlabelled rows by, or a
            view has another number of rows.
        ImportError: at the first batch of images if kornia is not installed.

    Relations:
        Views are drawn from a seed that is a checksum of the batch: another one for each batch and, as rows are
        shuffled, each epoch, the same in every worker and in a run that was interrupted and resumed.

    Example:
        >>> collator = TwoViewsCollator(None, collator=torch.utils.data.default_collate, strong=lambda inputs: inputs)
        >>> rows = [{"pixel_values": torch.ones(3), "labels": label} for label in (0, -100)]
        >>> batch = collator(rows)
        >>> batch["strong_view"]["row"].tolist()
        [1]
    """

    def __init__(
        self,
        processor: Any,
        *,
        collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        strong: Augment | None = None,
        weak: Augment | None = None,
        rows: Literal["unlabelled", "all"] = "unlabelled",
    ):
        if rows not in ("unlabelled", "all"):
            raise ValueError(
                f'`rows="{rows}"` names no rows: it says which of a batch get a second view. Give "unlabelled" or '
                '"all".'
            )
        self.collator = _collator(processor) if collator is None else collator
        self.strong = _strong(processor) if strong is None else strong
        self.weak = weak
        self.rows = rows

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        """The batch of some rows."""
        batch = dict(self.collator(features))
        count = len(features)
        inputs = {name: value for name, value in batch.items() if _is_input(name, value, count)}
        # Not from the global generator: a loader collates ahead, and a checkpoint would not know how far it was.
        with random_numbers_put_back(_seed(inputs), accelerators=False):
            return self._with_views(batch, inputs, self._chosen(batch, count))

    def _with_views(self, batch: dict[str, Any], inputs: dict[str, Tensor], row: Tensor) -> dict[str, Any]:
        if self.weak is not None:
            inputs.update(_same_rows(self.weak(inputs), inputs))
            batch.update(inputs)
        inputs = {name: value[row] for name, value in inputs.items()}
        # An augmentation need not know what to do with no rows.
        views = _same_rows(self.strong(inputs), inputs) if len(row) else inputs
        return {**batch, "strong_view": {**views, "row": row}}

    def _chosen(self, batch: Mapping[str, Any], count: int) -> Tensor:
        labels = batch.get("labels")
        if self.rows == "all":
            return torch.arange(count)
        if not isinstance(labels, Tensor):
            raise ValueError(
                f"TwoViewsCollator finds no `labels` among {', '.join(sorted(batch))}: they tell by -100 which rows "
                'are unlabelled. Build the data set with `mix_domains(source, target)`, or pass `rows="all"`.'
            )
        return (labels.reshape(count, -1) == UNLABELLED).all(1).nonzero().flatten()


class StrongImages:
    """
    RandAugment and Cutout for a batch of processed images, by kornia: two changes of geometry or colour for each
    image, and a grey square of up to half of its width. Picklable.

    Args:
        processor (image processor):
            Tells how pixels are normalised.

    Raises:
        ImportError: if kornia is not installed.
    """

    def __init__(self, processor: Any):
        self.processor = processor
        self._augment: Callable[[Tensor], Tensor] | None = None

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs with other `pixel_values` `(B, 3, H, W)`."""
        if "pixel_values" not in inputs or inputs["pixel_values"].dim() != 4:
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in sorted(inputs.items()))
            raise ValueError(
                f"StrongImages got {shapes}: there are no `pixel_values` of shape (B, 3, H, W) to augment. Give "
                "another augmentation in `strong`, a function of the model's inputs."
            )
        if self._augment is None:
            self._augment = _kornia(self.processor)
        return {**inputs, "pixel_values": self._augment(inputs["pixel_values"])}

    def __getstate__(self) -> dict[str, Any]:
        return {"processor": self.processor, "_augment": None}


def _kornia(processor: Any) -> Callable[[Tensor], Tensor]:
    # What "randaugment" is made of but for its flip, which is no harmless change of a digit.
    from hf_transfer.data.augmentation import KorniaAugmentation, augmentation

    named = augmentation("randaugment", processor)
    assert isinstance(named, KorniaAugmentation)
    from kornia.augmentation import RandomErasing, RandomHorizontalFlip

    changes = [step for step in named.steps if not isinstance(step, RandomHorizontalFlip)]
    cutout = RandomErasing(scale=(0.01, 0.25), ratio=(1.0, 1.0), value=0.5, p=1.0)
    return KorniaAugmentation([*changes, cutout], processor)


def _collator(processor: Any) -> Callable[[list[Any]], dict[str, Any]]:
    from hf_transfer.data.preparation import collator_for

    return collator_for(processor)


def _strong(processor: Any) -> Augment:
    if isinstance(processor, PreTrainedTokenizerBase):
        from hf_transfer.data.token_noise import TokenNoise

        return TokenNoise(processor)
    return StrongImages(processor)


def _is_input(name: str, value: Any, count: int) -> bool:
    """Whether a tensor of the batch is what the model reads of its rows: not the labels, nor a number for each row."""
    return isinstance(value, Tensor) and value.dim() > 1 and len(value) == count and name != "labels"


def _seed(inputs: Mapping[str, Tensor]) -> int:
    """A checksum of tensors, to seed generators with."""
    checksum = 0
    for name in sorted(inputs):
        checksum = zlib.crc32(inputs[name].cpu().contiguous().view(torch.uint8).numpy().tobytes(), checksum)
    return checksum


def _same_rows(views: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, value in views.items():
        if name not in inputs or value.shape != inputs[name].shape:
            given = {key: tuple(tensor.shape) for key, tensor in inputs.items()}
            raise ValueError(
                f"An augmentation returned `{name}` of shape {tuple(value.shape)} for {given}: rows of both views go "
                "through the model together. Let it keep names and shapes."
            )
    return dict(views)
