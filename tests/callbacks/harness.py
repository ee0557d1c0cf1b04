"""Short stock-Trainer runs on tiny models, and what they leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.models import batch_for, tiny_bert


PHASES = [
    {"train": ["head"]},
    {"step": 2, "train": ["head", "block.-1"], "lr_scale": 0.5},
    {"fraction": 0.75, "train": "all", "lr": 1e-3},
]
METRIC_PHASES = [{"train": "head"}, {"when": "score", "train": ["head", "block.2"]}, {"when": "score", "train": "all"}]


class Rows(Dataset):
    """Random rows that a model takes."""

    def __init__(self, model: nn.Module, rows: int = 16):
        self.batch = {name: value for name, value in batch_for(model, rows).items() if name != "domain"}

    def __len__(self) -> int:
        return len(self.batch["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index] for name, value in self.batch.items()}


class Recorder(TrainerCallback):
    """Notes at every optimizer step what trains, what rests, and the rates in effect."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        self.steps.append(
            {
                "step": state.global_step,
                "trains": {name for name, parameter in model.named_parameters() if parameter.requires_grad},
                "has_grad": {name for name, parameter in model.named_parameters() if parameter.grad is not None},
                "resting": {name for name, module in model.named_modules() if not module.training},
                "rates": [group["lr"] for group in optimizer.param_groups],
            }
        )

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.weights.append(copy_of(kwargs["model"]))


class Crash(TrainerCallback):
    """Ends a run as an interrupt does: without `on_train_end`."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def seeded(build=tiny_bert, **options) -> nn.Module:
    torch.manual_seed(0)
    return build(**options)


def arguments(folder: Path, **options) -> TrainingArguments:
    defaults = {
        "output_dir": str(folder),
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**{**defaults, **options})


def make_trainer(folder: Path, model: nn.Module, *callbacks: TrainerCallback, **options) -> Trainer:
    rows = Rows(model)
    return Trainer(
        model, arguments(folder, **options), train_dataset=rows, eval_dataset=rows, callbacks=list(callbacks)
    )
