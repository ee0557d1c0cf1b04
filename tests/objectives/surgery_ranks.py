"""
Gradient surgery on one rank or two: `torchrun -m tests.objectives.surgery_ranks FOLDER`.

Writes FOLDER/<rank>.safetensors: the weights after three steps of each setting, on eight rows a step in all.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from hf_transfer import TransferTrainer
from hf_transfer.objectives.multitask.multi_task import MultiTask
from hf_transfer.objectives.multitask.surgery import GradientSurgery
from tests.objectives.surgery_models import TASKS, bare, rows
from tests.test_trainer import arguments


SETTINGS = [("pcgrad", "parameters", 1), ("nash", "parameters", 2), ("upgrad", "representation", 1)]


class InOrder(MultiTask):
    """Rows as they come: consecutive ones make a batch, and the ranks take batches in turn."""

    def sampler(self, dataset, *, batch_size, ranks, seed):
        return torch.utils.data.SequentialSampler(dataset)


def trained(folder: Path, method: str, on: str, accumulation: int, ranks: int) -> dict[str, torch.Tensor]:
    from datasets import Dataset

    data = Dataset.from_dict({name: value.tolist() for name, value in rows(24).items()}).with_format("torch")
    args = arguments(
        folder,
        max_steps=3,
        learning_rate=0.1,
        per_device_train_batch_size=8 // ranks // accumulation,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        lr_scheduler_type="constant",
        ddp_backend="gloo" if ranks > 1 else None,
        ddp_find_unused_parameters=False,
    )
    torch.manual_seed(1)
    tasks = InOrder(TASKS, surgery=GradientSurgery(method, on=on))
    trainer = TransferTrainer(bare(), args, objectives=[tasks], train_dataset=data)
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    found = {}
    for method, on, accumulation in SETTINGS:
        weights = trained(folder, method, on, accumulation, ranks)
        found |= {f"{method}.{on}.{name}": value for name, value in weights.items()}
    save_file(found, folder / f"{os.environ.get('RANK', 0)}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
