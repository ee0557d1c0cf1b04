"""Data and checkpoints for tests of comparisons: a few rows, tiny models, a tokenizer of a dozen words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PIL
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil

from hf_transfer.data.loading import TransferData
from hf_transfer.recipe_arguments import LoopArguments


NAMES = ("bad", "good")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "bad", "good", "very", "not", "film", "the", "is", "a"]


def tokenizer(**options) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    words.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 16, **options},
    )


def image_processor(size: int = 8) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": size, "width": size})


def texts(rows: int, *, classes: int = 2, seed: int = 0, pairs: bool = False) -> Dataset:
    """Sentences of several lengths whose words tell the class."""
    random = np.random.default_rng(seed)
    labels = [row % classes for row in range(rows)]
    told = [" ".join([WORDS[4 + label], *random.choice(WORDS[6:], random.integers(1, 7))]) for label in labels]
    names = [*NAMES, "c", "d"][:classes]
    columns = {"text": told, **({"text_pair": told[::-1]} if pairs else {}), "label": labels}
    kinds = {name: Value("string") for name in columns if name != "label"}
    return Dataset.from_dict(columns, features=Features({**kinds, "label": ClassLabel(names=names)}))


def text_data(rows: int = 20, *, validation: int = 0, test: int = 6, classes: int = 2, pairs=False) -> TransferData:
    return TransferData(
        train=texts(rows, classes=classes, pairs=pairs),
        eval=texts(validation, classes=classes, seed=1, pairs=pairs) if validation else None,
        test=texts(test, classes=classes, seed=2, pairs=pairs) if test else None,
        task="text-classification",
        input_columns=("text", "text_pair") if pairs else ("text",),
        label_names=tuple(texts(classes, classes=classes).features["label"].names),
    )


def regression_data(rows: int = 20) -> TransferData:
    split = texts(rows).remove_columns("label")
    split = split.add_column("label", [float(row) for row in range(rows)], feature=Value("float32"))  # pyright: ignore
    return TransferData(split, None, split.select(range(5)), "regression", ("text",), ())


def token_data(rows: int = 12) -> TransferData:
    split = texts(rows)
    tokens = [text.split() for text in split["text"]]
    tags = [[WORDS.index(word) % 3 for word in words] for words in tokens]
    kinds = Features({"tokens": List(Value("string")), "label": List(ClassLabel(names=["O", "A", "B"]))})
    table = Dataset.from_dict({"tokens": tokens, "label": tags}, features=kinds)
    return TransferData(table, None, table.select(range(5)), "token-classification", ("tokens",), ("O", "A", "B"))


def images(rows: int, *, seed: int = 0, size: int = 9) -> Dataset:
    random = np.random.default_rng(seed)
    pictures = [
        PIL.fromarray(random.integers(0, 128, (size, size, 3), dtype=np.uint8) + np.uint8(127 * (row % 2)))
        for row in range(rows)
    ]
    kinds = Features({"image": Image(), "label": ClassLabel(names=list(NAMES))})
    return Dataset.from_dict({"image": pictures, "label": [row % 2 for row in range(rows)]}, features=kinds)


def image_data(rows: int = 20, *, validation: int = 0, test: int = 6) -> TransferData:
    return TransferData(
        train=images(rows),
        eval=images(validation, seed=1) if validation else None,
        test=images(test, seed=2) if test else None,
        task="image-classification",
        input_columns=("image",),
        label_names=NAMES,
    )


def checkpoint(folder: Path, model: nn.Module, processor) -> str:
    """The model and its processor in a folder."""
    model.save_pretrained(folder)  # pyright: ignore
    processor.save_pretrained(folder)
    return str(folder)


def loop(folder: Path, **options) -> LoopArguments:
    defaults = {"num_train_epochs": 1.0, "per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True}
    return LoopArguments(output_dir=str(folder), **{**defaults, **options})
