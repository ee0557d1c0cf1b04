"""
What the library costs on top of the stock `Trainer`, side by side: `python -m tests.benchmarks.trainer_overhead`.

A model of MiniLM's size (6 blocks, width 384) on random rows. The two sides of a comparison take turns, and the time
ratio is that of the medians of their steps. Peak memory is that of a process of its own. The floor is the time of the
matrix products alone, at the matrix rate measured here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    logging,
)

from hf_transfer import L2SP, DomainAdversarial, FreezeBackbone, TransferTrainer


ROWS, TOKENS = 16, 64  # rows of each domain; tokens of each row
SIDES = ["stock", "bare", "stock on 2B", "adversarial", "l2sp", "stock frozen", "frozen"]
COMPARISONS = [
    ("TransferTrainer without objectives", "bare", "stock", "at most 1.02"),
    ("DomainAdversarial, B source + B target rows", "adversarial", "stock on 2B", "at most 1.05"),
    ("L2SP", "l2sp", "stock on 2B", ""),
    ("FreezeBackbone against requires_grad off by hand", "frozen", "stock frozen", ""),
]


class Clock(TrainerCallback):
    """Seconds of each optimizer step, from its beginning to its end."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args, **kwargs):
        self.start = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        self.seconds.append(time.perf_counter() - self.start)


def config() -> BertConfig:
    return BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def trainer_of(side: str, steps: int, folder: str, *callbacks: TrainerCallback) -> Trainer:
    torch.manual_seed(0)
    model = BertForSequenceClassification(config())
    if side == "stock frozen":
        model.bert.requires_grad_(False)
    rows = ROWS if side in ("stock", "bare") else 2 * ROWS
    count = rows * steps
    data = {
        "input_ids": torch.randint(5, 30000, (count, TOKENS)).tolist(),
        "labels": torch.randint(0, 2, (count,)).tolist(),
    }
    options = {}
    if side == "adversarial":
        data["domain"] = [row % 2 for row in range(count)]
        data["labels"] = [label if row % 2 == 0 else -100 for row, label in enumerate(data["labels"])]
        options["objectives"] = [DomainAdversarial()]
    if side == "l2sp":
        options["objectives"] = [L2SP()]
    if side == "frozen":
        callbacks = (*callbacks, FreezeBackbone())
    args = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=rows,
        max_steps=steps,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    kind = Trainer if side.startswith("stock") else TransferTrainer
    return kind(model, args, train_dataset=Dataset.from_dict(data), callbacks=list(callbacks), **options)


def seconds_of(side: str, steps: int) -> list[float]:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(side, steps, folder, clock).train()
    return clock.seconds[2:]  # the first steps allocate


def peak_of(side: str) -> float:
    """Mebibytes that training takes, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_here, (side,))


def _peak_here(side: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(side, 4, folder).train()
    return peak_mebibytes()


def peak_mebibytes() -> float:
    """The most memory this process ever held."""
    # Not `getrusage`: its high-water mark survives `exec`, so a child would report its parent's.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def matrix_rate() -> float:
    """Floating-point operations per second of a large float32 product on this machine."""
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 1536**3 / statistics.median(times)


def matrix_operations(rows: int) -> float:
    """Of one training step: 2 per weight and token forward, twice that backward, and the attention products."""
    c = config()
    weights = c.num_hidden_layers * (4 * c.hidden_size**2 + 2 * c.hidden_size * c.intermediate_size)
    attention = c.num_hidden_layers * 2 * TOKENS * c.hidden_size
    return 3 * 2 * (weights + attention) * rows * TOKENS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    logging.set_verbosity_error()
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            times[side] += seconds_of(side, options.steps)
    medians = {side: statistics.median(values) for side, values in times.items()}
    write = sys.stdout.write
    write(f"threads: {torch.get_num_threads()}, matrix rate: {matrix_rate() / 1e9:.0f} GFLOP/s\n\n")
    write("| comparison | ours | stock | time ratio | memory ratio | wanted |\n|---|---|---|---|---|---|\n")
    for title, ours, stock, wanted in COMPARISONS:
        memory = peak_of(ours) / peak_of(stock)
        write(
            f"| {title} | {1e3 * medians[ours]:.0f} ms | {1e3 * medians[stock]:.0f} ms | "
            f"{medians[ours] / medians[stock]:.3f} | {memory:.3f} | {wanted} |\n"
        )
    floor = matrix_operations(2 * ROWS) / matrix_rate()
    write(f"\nfloor of a step on 2B rows (matrix products alone): {1e3 * floor:.0f} ms; ")
    write(f"the adversarial step takes {medians['adversarial'] / floor:.2f} times that\n")


if __name__ == "__main__":
    main()
