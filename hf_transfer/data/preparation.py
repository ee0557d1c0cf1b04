"""From a loaded split to what a model takes: processed lazily for images and sound, once for text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, Image
from torch import Tensor
from transformers import (
    BaseImageProcessor,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
    default_data_collator,
)

from hf_transfer.data.pixel_values import pixel_values
from hf_transfer.data.sound import SoundCollator, SoundTransform, stored_sound
from hf_transfer.functional.task_loss import UNLABELLED


__all__ = ["collator_for", "prepare"]


def prepare(
    split: Dataset,
    processor: Any,
    *,
    max_length: int | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> Dataset:
    """
    A split of [`TransferData`] with a model's inputs and `labels`; other columns, such as `domain`, are handed on.

    Images and sound are decoded, processed and (images) augmented when a batch is fetched, text and tokens are
    tokenised now. Sound is decoded with soundfile, needs no torchcodec, and is resampled to the rate of the extractor.

    Args:
        split (`datasets.Dataset`):
            With the columns `image`, `audio`, `text` (and `text_pair`) or `tokens`, and `label` unless it is
            unlabelled.
        processor (`BaseImageProcessor`, `SequenceFeatureExtractor` or `PreTrainedTokenizerBase`):
            The model's own.
        max_length (`int`, *optional*):
            Longest text in tokens; by default as long as the tokenizer allows.
        augment (`Callable`, *optional*):
            Maps `(B, 3, H, W)` processed images to the same shape; for training only.

    Raises:
        ValueError: if the processor does not take the split's inputs; if a row has no text; if tokens are to be split
            further by a tokenizer that cannot tell which word a piece came from.
    """
    if "label" in split.column_names:
        split = split.rename_column("label", "labels")
    if "image" in split.column_names:
        _require(processor, BaseImageProcessor, "images", "an image processor")
        return split.with_transform(_ImageTransform(processor, augment))
    if "audio" in split.column_names:
        _require(processor, SequenceFeatureExtractor, "sound", "a feature extractor")
        return stored_sound(split).with_transform(SoundTransform(processor))
    _require(processor, PreTrainedTokenizerBase, "text", "a tokenizer")
    limit = max_length or min(processor.model_max_length, 512)
    _refuse_missing(split)
    if "tokens" in split.column_names:
        return _tokenise_words(split, processor, limit)
    columns = [name for name in ("text", "text_pair") if name in split.column_names]
    return split.map(
        lambda batch: processor(*(batch[name] for name in columns), truncation=True, max_length=limit),
        batched=True,
        remove_columns=columns,
        desc="Tokenising",
    )


def collator_for(processor: Any, *, tokens: bool = False) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
    """The collator that pads text and sound with `processor`, labels of tokens with -100, and stacks images."""
    if isinstance(processor, SequenceFeatureExtractor):
        return SoundCollator(processor)
    if not isinstance(processor, PreTrainedTokenizerBase):
        return default_data_collator
    return DataCollatorForTokenClassification(processor) if tokens else DataCollatorWithPadding(processor)


def _require(processor: Any, kind: type, inputs: str, name: str) -> None:
    if not isinstance(processor, kind):
        raise ValueError(
            f"The data set holds {inputs}, but the model came with {type(processor).__name__}, which does not read "
            f"them. Choose a model with {name}, or name the right input column with `--input_columns`."
        )


def _refuse_missing(split: Dataset) -> None:
    for name in ("text", "text_pair", "tokens"):
        if name in split.column_names:
            missing = split.select_columns([name]).with_format("arrow")[:][name].null_count
            if missing:
                raise ValueError(
                    f"{missing} of {len(split)} rows have no `{name}`, such as empty cells of a CSV file: there is "
                    "nothing to read. Fill or drop these rows."
                )


@dataclass(frozen=True)
class _ImageTransform:
    """Pickled into data loader workers, hence a class."""

    processor: BaseImageProcessor
    augment: Callable[[Tensor], Tensor] | None

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        if "image" not in batch:
            return batch
        images = [_decoded(image).convert("RGB") for image in batch.pop("image")]
        pixels = pixel_values(self.processor, images)
        pixels = pixels if self.augment is None else self.augment(pixels)
        return {**batch, "pixel_values": list(torch.unbind(pixels))}


def _decoded(image: Any) -> Any:
    """The picture, also where its column was cast to `Image(decode=False)`."""
    return Image().decode_example(image) if isinstance(image, dict) else image


def _tokenise_words(split: Dataset, tokenizer: PreTrainedTokenizerBase, limit: int) -> Dataset:
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is a slow tokenizer: it does not tell which word each piece came from, so "
            "the labels of words cannot be given to pieces. Load it with `use_fast=True` or choose another model."
        )

    def tokenise(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded: Any = tokenizer(batch["tokens"], is_split_into_words=True, truncation=True, max_length=limit)
        if "labels" in batch:
            encoded["labels"] = [
                _first_pieces(encoded.word_ids(row), labels) for row, labels in enumerate(batch["labels"])
            ]
        return encoded

    return split.map(tokenise, batched=True, remove_columns=["tokens"], desc="Tokenising")


def _first_pieces(words: list[int | None], labels: list[int]) -> list[int]:
    """The label of a word at its first piece, -100 at its other pieces and at special tokens."""
    before = [None, *words[:-1]]
    return [
        UNLABELLED if word is None or word == last else labels[word] for word, last in zip(words, before, strict=True)
    ]
