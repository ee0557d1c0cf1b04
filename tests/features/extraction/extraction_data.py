"""Data sets for every tiny model, and features computed row by row with no batch, padding or cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image as PIL
from torch import nn
from transformers import ViTImageProcessorPil

from hf_transfer.anatomy import anatomy
from hf_transfer.tap import HeadTap, HiddenStateTaps
from tests.data.test_preparation import tokenizer
from tests.models import NUM_LABELS, VOCABULARY


NAMES = ["low", "mid", "high"]
__all__ = ["NAMES", "alone", "block_alone", "image_processor", "images", "inputs_for", "stack", "texts", "tokenizer"]


def base_of(model: nn.Module) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def inputs_for(model: nn.Module, rows: int = 13, *, padded: str | None = None, seed: int = 0) -> Dataset:
    """Rows of the model's inputs, text of 1 to 7 tokens, with labels; `padded` on the `left` or `right` to 9."""
    random = np.random.default_rng(seed)
    base = base_of(model)
    name, tokens = base.main_input_name, type(base).__name__.endswith("TokenClassification")
    columns: dict[str, Any] = {}
    lengths = random.integers(1, 8, rows)
    label: Any = ClassLabel(names=NAMES)
    labels: list[Any] = [int(value) for value in random.integers(0, NUM_LABELS, rows)]
    if name == "input_ids":
        ids = [random.integers(1, VOCABULARY, length).tolist() for length in lengths]
        if tokens:
            label, labels = List(label), [random.integers(0, NUM_LABELS, length).tolist() for length in lengths]
        if padded is not None:
            left = padded == "left"
            masks = [_pad([1] * len(row), 0, left) for row in ids]
            columns["attention_mask"] = masks
            ids = [_pad(row, 0, left) for row in ids]
            labels = [_pad(row, -100, left) for row in labels] if tokens else labels
        columns["input_ids"] = ids
    elif name == "pixel_values":
        size = getattr(base.config, "image_size", 16)
        columns[name] = random.standard_normal((rows, 3, size, size)).astype("float32").tolist()
    else:
        columns[name] = [random.standard_normal(400 if row % 3 else 320).astype("float32") for row in range(rows)]
    data = Dataset.from_dict({**columns, "labels": labels, "domain": [row % 2 for row in range(rows)]})
    return data.cast(Features({**data.features, "labels": label, "domain": Value("int64")}))


def _pad(row: list[int], value: int, left: bool) -> list[int]:
    padding = [value] * (9 - len(row))
    return padding + row if left else row + padding


@torch.no_grad()
def alone(model: nn.Module, data: Dataset) -> list[np.ndarray]:
    """What the tap at the head sees of each row in a plain forward of that row."""
    model.eval()
    tap = HeadTap(model, anatomy(model).head)
    found = []
    for inputs in _single(model, data):
        tap.open = True
        found.append(tap.take(model(**inputs).logits, inputs)[0].numpy())
    tap.remove()
    return found


@torch.no_grad()
def block_alone(model: nn.Module, data: Dataset, module: str) -> list[np.ndarray]:
    """What a module returns for each row in a plain forward of that row."""
    model.eval()
    taps = HiddenStateTaps(model, [module])
    found = []
    for inputs in _single(model, data):
        taps.open = True
        model(**inputs)
        found.append(taps.take()[module][0].numpy())
    taps.remove()
    return found


def _single(model: nn.Module, data: Dataset) -> list[dict[str, torch.Tensor]]:
    names = [
        name
        for name in (base_of(model).main_input_name, "token_type_ids")
        if name in data.column_names or name == "pixel_values"
    ]
    return [{name: torch.as_tensor(row[name]).unsqueeze(0) for name in names} for row in data]  # type: ignore[call-overload,index]


def stack(data: Dataset, column: str = "features") -> np.ndarray:
    return np.array(data.with_format("numpy")[:][column])


def texts(rows: int = 12) -> Dataset:
    words = ["good", "bad", "zurich", "zuricher", "lives", "in"]
    sentences = [" ".join(words[(row + place) % 6] for place in range(1 + row % 5)) for row in range(rows)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"text": sentences, "label": [row % 3 for row in range(rows)]}, features=features)


def images(rows: int = 10) -> Dataset:
    random = np.random.default_rng(0)
    from datasets import Image

    pictures = [PIL.fromarray(random.integers(0, 255, (9 + row, 11, 3), dtype=np.uint8)) for row in range(rows)]
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"image": pictures, "label": [row % 3 for row in range(rows)]}, features=features)


def image_processor(size: int = 8) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": size, "width": size})
