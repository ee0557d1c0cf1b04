"""
What training a forecaster costs beside the stock `Trainer`: `python -m tests.benchmarks.time_series`.

PatchTST as for ETTh1 (7 channels, context 336, horizon 96, patches of 16 with stride 8, width 16), made-up values. The
sides take turns on one thread; times are seconds of that thread, which other work on the machine does not lengthen,
over whole runs, batches included. Then the closed-form fit of the head against one epoch of training.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, logging

from hf_transfer import FreezeBackbone
from hf_transfer.time_series.head_fit import fit_forecast_head
from hf_transfer.time_series.models import new_forecaster
from hf_transfer.time_series.trainer import ForecastTrainer
from hf_transfer.time_series.windows import Windows


CONTEXT, HORIZON, CHANNELS, BATCH = 336, 96, 7, 128
SIDES = ("stock", "forecast", "forecast, 1% missing", "backbone frozen")


def windows(rows: int, missing: float = 0.0) -> Windows:
    random = np.random.default_rng(0)
    values = np.sin(np.arange(rows)[:, None] / (3 + np.arange(CHANNELS))) + random.normal(size=(rows, CHANNELS))
    values[random.random(values.shape) < missing] = np.nan
    return Windows(values, rows=range(CONTEXT, rows), context_length=CONTEXT, prediction_length=HORIZON)


def model(kind: str = "patchtst"):
    torch.manual_seed(0)
    return new_forecaster(kind, channels=CHANNELS, context_length=CONTEXT, prediction_length=HORIZON)  # type: ignore[arg-type]


def seconds_of(side: str, steps: int, data: dict[str, Windows]) -> float:
    """CPU seconds of a step with its batch."""
    callbacks: list[TrainerCallback] = [FreezeBackbone()] if side == "backbone frozen" else []
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, max_steps=steps, use_cpu=True, disable_tqdm=True,
            report_to="none", save_strategy="no", logging_strategy="no", dataloader_pin_memory=False,
            label_names=["future_values"],
        )  # fmt: skip
        kind = Trainer if side == "stock" else ForecastTrainer
        rows = data["missing" if "missing" in side else "whole"]
        trainer = kind(model(), args, train_dataset=rows, callbacks=callbacks)
        began = time.process_time()
        trainer.train()
        return (time.process_time() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    data = {"whole": windows(3000), "missing": windows(3000, 0.01)}
    seconds_of("stock", 2, data)  # what is done once in a process
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(options.turns):
        for side in SIDES:
            times[side].append(seconds_of(side, options.steps, data))
    medians = {side: statistics.median(times[side]) for side in SIDES}
    for side, median in medians.items():
        ratio = median / medians["stock"]
        print(f"{side:<22} {1000 * median:6.0f} ms a step ({ratio:.2f} of stock), {BATCH / median:5.0f} windows/s")
    began = time.process_time()
    fit_forecast_head(model(), data["whole"], penalties=[1e-4])
    took, epoch = time.process_time() - began, len(data["whole"]) / BATCH * medians["forecast"]
    print(f"closed-form head on {len(data['whole'])} windows: {took:.1f} s; one epoch of training: {epoch:.1f} s")


if __name__ == "__main__":
    main()
