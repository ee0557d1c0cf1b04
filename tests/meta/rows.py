"""Rows of several classes that a tiny model can learn, and a trainer on them."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from hf_transfer import MetaTrainer, TransferArguments
from tests import models


def rows(kind: str = "vit", *, classes: int = 6, each: int = 6, seed: int = 0, noise: float = 0.5) -> Dataset:
    """`each` rows of each class; images around a mean of the class, texts whose first token tells it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    if kind != "bert":
        means = torch.randn(classes, 3, 8, 8, generator=generator)
        pixels = means[labels] + noise * torch.randn(len(labels), 3, 8, 8, generator=generator)
        return Dataset.from_dict({"pixel_values": pixels.tolist(), "labels": labels.tolist()})
    ids = torch.randint(1, models.VOCABULARY, (len(labels), 6), generator=generator)
    ids[:, 0] = 3 + 5 * labels
    mask = torch.ones_like(ids)
    ids[::2, 4:], mask[::2, 4:] = 0, 0
    return Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": mask.tolist(), "labels": labels.tolist()})


def model_of(kind: str = "vit", seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    quiet = {} if kind == "resnet" else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return getattr(models, f"tiny_{kind}")(**{**quiet, **options})


def arguments(folder: Any, **options: Any) -> TransferArguments:
    defaults = {
        "max_steps": 2,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "dataloader_pin_memory": False,
    }
    return TransferArguments(output_dir=str(folder), **{**defaults, **options})


def trainer_of(folder: Any, kind: str = "vit", *, model: nn.Module | None = None, **options: Any) -> MetaTrainer:
    names = {"max_steps", "learning_rate", "optim", "gradient_accumulation_steps", "save_strategy", "save_steps"}
    names |= {"max_grad_norm", "ddp_backend", "weight_decay", "bf16", "objective_lr", "head_lr", "seed"}
    names |= {"eval_strategy", "eval_steps", "load_best_model_at_end", "metric_for_best_model"}
    of_args = {name: options.pop(name) for name in list(options) if name in names}
    defaults = {"n_way": 3, "k_shot": 1, "queries": 2, "inner_steps": 2, "train_dataset": rows(kind)}
    defaults |= {"eval_dataset": rows(kind, seed=1), "eval_episodes": 8}
    model = model_of(kind) if model is None else model
    return MetaTrainer(model, arguments(folder, **of_args), **{**defaults, **options})


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def batch_of(dataset: Dataset, numbers: list[int]) -> dict[str, Tensor]:
    """The inputs of some rows."""
    columns = dataset[numbers]
    return {name: torch.tensor(columns[name]) for name in dataset.column_names if name != "labels"}
