"""
Runs of few-shot objectives on one rank or two: `launch("tests.objectives.few_shot_runs", FOLDER, ROWS, ranks=2)`.

Writes FOLDER/<name>-<rank>.safetensors: the weights after a few steps with ROWS times the least rows of a batch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file

from hf_transfer import PairSimilarity, PrototypicalEpisodes, TransferArguments, TransferTrainer
from tests import models


STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MADE = {
    "prototypical_episodes": (lambda: PrototypicalEpisodes(n_way=2, k_shot=1, queries=1, episodes=8), 4),
    "pair_similarity": (lambda: PairSimilarity(pairs_per_row=4), 16),
}
"""For each objective what makes it, and the least rows of a batch."""


def rows(count: int = 24, classes: int = 3, *, image: bool = False) -> Dataset:
    """Random inputs that tell a little of their class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    if image:
        inputs = {"pixel_values": torch.randn(count, 3, 8, 8, generator=generator).add(labels[:, None, None, None])}
        return Dataset.from_dict({"pixel_values": inputs["pixel_values"].tolist(), "labels": labels.tolist()})
    ids = torch.randint(1, models.VOCABULARY, (count, 6), generator=generator)
    ids[:, 0] = 1 + labels
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


def arguments(folder: Path | str, **options) -> TransferArguments:
    defaults = {
        "output_dir": str(folder),
        "max_steps": 3,
        "learning_rate": 0.01,
        "report_to": "none",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    return TransferArguments(**{**defaults, **options})


def trained(name: str, folder: Path | str, batches: int = 1, *, model=None, data=None, resume=None, **options):
    """A trainer after a few steps; `batches` times the least rows at once."""
    torch.manual_seed(0)
    make, least = MADE[name]
    model = models.tiny_bert(**STILL) if model is None else model
    args = arguments(folder, per_device_train_batch_size=batches * least, **options)
    trainer = TransferTrainer(model, args, train_dataset=rows() if data is None else data, objectives=[make()])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(trainer) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in trainer.model.state_dict().items()}


def main(folder: Path, batches: int) -> None:
    torch.set_num_threads(1)
    rank = os.environ.get("RANK", "0")
    for name in MADE:
        trainer = trained(name, folder, batches, **({"ddp_backend": "gloo"} if "RANK" in os.environ else {}))
        save_file(weights(trainer), folder / f"{name}-{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
