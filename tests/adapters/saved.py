"""Base models in folders and adapters on them, moved off their start, for the tests of saving and loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import Tensor
from transformers import ViTImageProcessorPil

from tests.models import batch_for, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit
from tests.recipes.conftest import saved_text_model


LABELS = ["red", "green", "blue", "grey", "pink"]

BASES: dict[str, Callable[..., Any]] = {
    "text": tiny_bert,
    "tokens": tiny_token_bert,
    "image": tiny_vit,
    "norms": tiny_resnet,
}
TARGETS = {"text": ["query", "value"], "tokens": ["query", "value"], "image": ["q_proj", "v_proj"]}


def save_base(kind: str, folder: Path) -> Path:
    """A base model for three classes, with its processor."""
    torch.manual_seed(0)
    if kind in ("text", "tokens"):
        return saved_text_model(folder, BASES[kind])
    BASES[kind]().save_pretrained(folder)
    size = 16 if kind == "norms" else 8
    ViTImageProcessorPil(size={"height": size, "width": size}).save_pretrained(folder)
    return folder


def load_base(kind: str, folder: Path | str, labels: list[str] | None = None, **options: Any) -> Any:
    """The base model with a new head for other labels."""
    names = LABELS if labels is None else labels
    torch.manual_seed(1)
    return type(BASES[kind]()).from_pretrained(
        folder,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        ignore_mismatched_sizes=True,
        **options,
    )


def config_for(kind: str, **options: Any) -> PeftConfig:
    """LoRA in the attention of a transformer, in all convolutions of a ResNet; its head and norms are saved."""
    defaults: dict[str, Any] = {"r": 2, "target_modules": TARGETS.get(kind, ["convolution"])}
    if kind in ("text", "tokens"):
        defaults["task_type"] = {"text": "SEQ_CLS", "tokens": "TOKEN_CLS"}[kind]
    else:
        defaults["modules_to_save"] = ["classifier", "normalization"] if kind == "norms" else ["classifier"]
    return LoraConfig(**{**defaults, **options})


def moved(model: Any, *, seed: int = 2) -> Any:
    """The model with every trainable parameter off its start, and running statistics that have seen a batch."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        model.train()(**inputs_for(model))
    return model.eval()


def adapted(kind: str, base: Path | str, config: PeftConfig | None = None, **options: Any) -> Any:
    """A trained adapter on a base model."""
    return moved(get_peft_model(load_base(kind, base, **options), config or config_for(kind)))


def inputs_for(model: Any) -> dict[str, Tensor]:
    batch = batch_for(model)
    return {name: batch[name] for name in batch if name not in ("labels", "domain")}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(**inputs_for(model)).logits
