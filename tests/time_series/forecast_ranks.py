"""A short run of a forecaster on one rank or several: `torchrun -m tests.time_series.forecast_ranks FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from hf_transfer.time_series.trainer import ForecastTrainer
from tests.time_series.tiny_forecasters import arguments, forecaster, windows


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    # Layer normalisation: that of a batch is by definition of the rows of its own rank.
    model = forecaster(norm_type="layernorm", dropout=False)
    options = {"per_device_train_batch_size": 8 // ranks, "optim": "sgd", "max_steps": 4, "learning_rate": 0.05}
    data = windows(43)  # 24 windows: whole batches
    held_out = windows(41)  # 22: the last batch is filled up on two ranks
    args = arguments(folder, ddp_backend="gloo" if ranks > 1 else None, **options)
    trainer = ForecastTrainer(model, args, train_dataset=data, eval_dataset=held_out)
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor for name, tensor in model.state_dict().items() if "objectives" not in name}
        torch.save({"weights": weights, "metrics": metrics}, folder / "outcome.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
