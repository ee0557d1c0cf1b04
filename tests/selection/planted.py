"""Images and sentences whose classes some features tell and others do not, and tiny models that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Audio, ClassLabel, Dataset, Features, List, Value
from PIL import Image
from transformers import ViTImageProcessorPil

from tests.models import tiny_vit


CLASSES = ("dark", "middle", "bright")
PROCESSOR = ViTImageProcessorPil(size={"height": 8, "width": 8})
_NAMED = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})


def shades(rows: int = 60, *, noise: float = 20.0, seed: int = 0) -> Dataset:
    """Grey images of three shades, one class each."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    images = []
    for label in labels:
        pixels = 60 + 65 * label + noise * generator.standard_normal((8, 8, 3))
        images.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    data = Dataset.from_dict({"image": images, "label": labels.tolist()})
    return data.cast_column("label", ClassLabel(names=list(CLASSES)))


def vit(seed: int = 0) -> Any:
    """A ViT of two blocks, always the same."""
    torch.manual_seed(seed)
    return tiny_vit()


def blind_vit(seed: int = 0) -> Any:
    """The same, but what it reads does not depend on the image: only on noise of its pixels."""
    model: Any = vit(seed)
    with torch.no_grad():
        weight = model.vit.embeddings.patch_embeddings.projection.weight
        weight -= weight.mean((1, 2, 3), keepdim=True)  # no shade passes, only what differs within a patch
    return model


def sentences(rows: int = 24) -> Dataset:
    """Sentences with a tag for each word: names, and other words."""
    generator = np.random.default_rng(0)
    names, others = ["anna", "bern"], ["the", "is", "very", "good"]
    tokens, tags = [], []
    for _ in range(rows):
        words = [
            names[generator.integers(2)] if generator.random() < 0.4 else others[generator.integers(4)]
            for _ in range(int(generator.integers(2, 6)))
        ]
        tokens.append(words)
        tags.append([int(word in names) for word in words])
    features = Features({"tokens": List(Value("string")), "label": List(ClassLabel(names=["O", "NAME"]))})
    return Dataset.from_dict({"tokens": tokens, "label": tags}, features=features)


def tones(folder: Path, rows: int = 24) -> Dataset:
    """Files of a low and a high tone in noise, one class each."""
    import soundfile

    generator, time = np.random.default_rng(0), np.arange(1600) / 16000
    for row in range(rows):
        wave = np.sin(2 * np.pi * (3000 if row % 2 else 300) * time) + 0.1 * generator.standard_normal(1600)
        soundfile.write(folder / f"{row}.wav", 0.5 * wave, 16000)
    data = Dataset.from_dict(
        {"audio": [str(folder / f"{row}.wav") for row in range(rows)], "label": [row % 2 for row in range(rows)]}
    )
    return data.cast_column("audio", Audio(decode=False))
