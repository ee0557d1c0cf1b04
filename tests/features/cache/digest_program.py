"""Digests of one model, tokenizer and data set, which must be the same in another process."""

from __future__ import annotations

import torch
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, ViTImageProcessor

from hf_transfer.features.cache.digests import data_digest, processor_digest, weights_digest
from tests.models import lora, tiny_bert


def tokenizer(words: str = "a b c d e f", **options) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words.split()])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16, **options
    )


def half(batch):
    return {"text": [text.upper() for text in batch["text"]]}


def digests() -> list[str]:
    torch.manual_seed(0)
    model = lora(tiny_bert(), ["query", "value", "key"], "classifier")
    data = Dataset.from_dict(
        {"text": ["one", "two"], "label": [0, 1]},
        features=Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])}),
    )
    return [
        weights_digest(model),
        processor_digest(tokenizer()),
        processor_digest(ViTImageProcessor()),
        data_digest(data, ["text", "label"]),
        data_digest(data.with_transform(half), ["text"]),
    ]
