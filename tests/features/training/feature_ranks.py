"""A run on cached features on several ranks: `torchrun -m tests.features.training.feature_ranks FOLDER BATCH`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from hf_transfer.features.training.trainer import FeatureExtractionTrainer
from tests import models
from tests.test_trainer import QUIET, arguments, mixed, seeded


def trained(folder: Path, batch: int) -> FeatureExtractionTrainer:
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    args = arguments(
        folder, ddp_backend="gloo" if ranks > 1 else None, per_device_train_batch_size=batch, seed=3, max_steps=5
    )
    trainer = FeatureExtractionTrainer(
        seeded(models.tiny_bert, **QUIET), args, train_dataset=mixed(), extraction={"cache_dir": folder / "cache"}
    )
    trainer.train()
    return trainer


def outcome(trainer: FeatureExtractionTrainer) -> dict[str, list[float]]:
    return {
        "features": sum(trainer.train_dataset["features"][:], []),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "head": trainer.model.classifier.weight.flatten().tolist(),
    }


def main(folder: Path, batch: int) -> None:
    torch.set_num_threads(1)
    trainer = trained(folder, batch)
    if trainer.is_world_process_zero():
        (folder / "result.json").write_text(json.dumps(outcome(trainer)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
