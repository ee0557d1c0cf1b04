"""A tokenizer of single words, texts that are told apart by them, and tiny models with two towers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


NAMES = ["fruit", "tool", "bird"]
WORDS = {
    "fruit": ["apple", "pear", "plum", "fig"],
    "tool": ["saw", "axe", "drill", "file"],
    "bird": ["owl", "hawk", "wren", "swan"],
}
OTHERS = ["this", "is", "about", "a", "photo", "of", ".", "the", "very"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def tokenizer() -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *OTHERS, *NAMES, *(word for kind in WORDS.values() for word in kind)]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]", model_max_length=16
    )


def texts(each: int = 4, seed: int = 0, names: list[str] = NAMES) -> Dataset:
    """`each` texts of a class, class by class: a word of it and another."""
    random = np.random.default_rng(seed)
    found = [f"{random.choice(WORDS[name])} {random.choice(OTHERS)}" for name in names for _ in range(each)]
    labels = [number for number in range(len(names)) for _ in range(each)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"text": found, "label": labels}, features=features)


def images(each: int = 4) -> Dataset:
    """Pictures of one colour a class, with noise."""
    from datasets import Image

    random = np.random.default_rng(0)
    found = []
    for number in range(3):
        for _ in range(each):
            pixels = random.integers(0, 60, (8, 8, 3), dtype=np.uint8)
            pixels[:, :, number] += 120
            found.append(pixels)
    features = Features({"image": Image(), "label": ClassLabel(names=["red", "green", "blue"])})
    labels = [number for number in range(3) for _ in range(each)]
    return Dataset.from_dict({"image": found, "label": labels}, features=features)


def dual_encoder(kind: Any, config: Any) -> Any:
    """A model with two towers of random weights."""
    siglip = "siglip" in config.__name__.lower()
    shared = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**shared, "vocab_size": 40, "max_position_embeddings": 16}
    text |= {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    vision = {**shared, "image_size": 8, "patch_size": 4}
    if siglip:
        made = kind(config(text_config={**text, "projection_size": 16}, vision_config=vision))
    else:
        made = kind(config(text_config=text, vision_config=vision, projection_dim=12))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # so that no bias is zero and images differ
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made.eval()
