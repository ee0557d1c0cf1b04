"""A run with `TargetValidation` on any number of ranks: `python -m tests.callbacks.validation_ranks OUT`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from hf_transfer import TargetValidation, TransferTrainer
from tests.callbacks.harness import Rows, arguments, seeded
from tests.validators.rows import rows_of


WORLD = int(os.environ.get("WORLD_SIZE", "1"))


def run(out: Path) -> list[dict[str, float]]:
    """The scores of each evaluation."""
    model = seeded()
    callback = TargetValidation(
        source=rows_of(model, 12, seed=1),
        target=rows_of(model, 14, seed=2),
        train_source=rows_of(model, 16, seed=3),
        oracle=rows_of(model, 14, seed=2),
    )
    options = {"ddp_backend": "gloo"} if WORLD > 1 else {}
    trainer = TransferTrainer(
        model,
        arguments(
            out,
            max_steps=4,
            eval_strategy="steps",
            eval_steps=2,
            per_device_train_batch_size=8 // WORLD,
            learning_rate=1e-3,
            optim="sgd",
            metric_for_best_model="snd",
            **options,
        ),
        train_dataset=Rows(model),
        eval_dataset=Rows(model),
        callbacks=[callback],
    )
    trainer.train()
    names = [f"eval_{name}" for name in callback.validation.names]
    return [{name: log[name] for name in names} for log in trainer.state.log_history if names[0] in log]


if __name__ == "__main__":
    scores = run(Path(sys.argv[1]))
    torch.save(scores, f"{sys.argv[1]}-{os.environ.get('RANK', '0')}.pt")
    if WORLD > 1:
        torch.distributed.destroy_process_group()
