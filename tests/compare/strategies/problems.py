"""Tiny problems that a strategy learns in a few steps: words or colours, with another domain and a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from transformers import ViTImageProcessorPil

from hf_transfer.compare.cells import CellKey
from hf_transfer.compare.problem.pretrained import Pretrained
from hf_transfer.compare.problem.problem import Problem
from hf_transfer.compare.problem.setup import Setup
from hf_transfer.data.loading import TransferData
from hf_transfer.recipe_arguments import LoopArguments
from tests.models import tiny_bert, tiny_gpt2, tiny_resnet, tiny_token_bert, tiny_vit
from tests.test_models import tokenizer


NAMES = ("no", "yes")
STEPS = 6
MAKERS = {"bert": tiny_bert, "vit": tiny_vit, "resnet": tiny_resnet, "gpt2": tiny_gpt2, "tokens": tiny_token_bert}
TASKS = {"vit": "image-classification", "resnet": "image-classification", "tokens": "token-classification"}


def _column(kind: str, labels: np.ndarray, seed: int, shift: int) -> tuple[str, Any, list[Any]]:
    generator = np.random.default_rng(seed)
    if kind in ("vit", "resnet"):
        made = []
        for label in labels:
            pixels = generator.integers(0, 120, (8, 8, 3), dtype=np.uint8)
            pixels[..., label] += np.uint8(100)
            made.append(np.roll(pixels, shift, axis=-1))
        return "image", Image(), made
    rest = [["other"] * int(n) for n in generator.integers(0, 4, len(labels))]
    words = [
        [("bad", "good")[label], *("good" for _ in range(shift)), *tail]
        for label, tail in zip(labels, rest, strict=True)
    ]
    if kind == "tokens":
        return "tokens", List(Value("string")), words
    return "text", Value("string"), [" ".join(row) for row in words]


def rows(kind: str, count: int, *, seed: int = 0, shift: int = 0, regression: bool = False) -> Dataset:
    """Rows of both classes in turn, of which there is one more of the first."""
    labels = np.arange(count) % 2
    name, feature, inputs = _column(kind, labels, seed, shift)
    label: Any = Value("float32") if regression else ClassLabel(names=list(NAMES))
    values: list[Any] = [float(value) for value in labels] if regression else labels.tolist()
    if kind == "tokens":
        label = List(label)
        values = [[int(word == "good") for word in row] for row in inputs]
    return Dataset.from_dict({name: inputs, "label": values}, features=Features({name: feature, "label": label}))


def data(kind: str, *, train: int = 20, shift: int = 0, regression: bool = False) -> TransferData:
    splits = (
        rows(kind, size, seed=seed, shift=shift, regression=regression) for seed, size in enumerate((train, 8, 6))
    )
    first, second, third = splits
    task: Any = {
        "vit": "image-classification",
        "resnet": "image-classification",
        "tokens": "token-classification",
    }.get(kind, "regression" if regression else "text-classification")
    return TransferData(first, second, third, task, (first.column_names[0],), () if regression else NAMES)


def processor(kind: str) -> Any:
    size = {"height": 8, "width": 8}
    return ViTImageProcessorPil(size=size) if kind in ("vit", "resnet") else tokenizer()


def problem(
    kind: str, folder: Path, *, teacher: bool = False, target: TransferData | None = None, **options: Any
) -> Problem:
    """A tiny model of this kind in memory, and the data for it."""
    torch.manual_seed(100)  # another than those of runs
    own = data(kind, **options)
    model: Any = MAKERS[kind]()
    if kind not in ("vit", "resnet"):
        model.config.pad_token_id = tokenizer().pad_token_id  # decoders answer at the last token that is none
    base = Pretrained("tiny", None, own, model=model, processor=processor(kind))
    taught = base.scratch(1) if teacher else None
    return Problem(own, [base], teacher=taught, target=target, cache_dir=folder / "features")


def setup_of(
    made: Problem, folder: Path, name: str = "any", *, seed: int = 0, share: float = 1.0, **options: Any
) -> Setup:
    """What a strategy is given."""
    args = LoopArguments(
        output_dir=str(folder / "out"),
        **{
            "max_steps": STEPS,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "logging_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            **options,
        },
    )
    return made.setup(CellKey("tiny", name, seed, share), args)
