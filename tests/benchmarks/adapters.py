"""
What LoRA costs through this library, against PEFT by hand: `python -m tests.benchmarks.adapters`.

A model of MiniLM's size (6 blocks, width 384) on random rows, with the same LoRA on the same layers: put in by
`add_adapter` and trained by `TransferTrainer`, and put in by PEFT and trained by the stock `Trainer`. Full fine-tuning
stands beside them for information. The sides take turns, and a time ratio is that of the medians of their steps. Peak
memory is that of a process of its own, less what the process held before it had a model.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from transformers import BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments, logging

from hf_transfer import TransferTrainer
from hf_transfer.adapters import add_adapter
from tests.benchmarks.trainer_overhead import Clock, config, peak_mebibytes


ROWS, TOKENS = 16, 64
TARGETS = ["query", "value"]
OPTIONS: dict[str, Any] = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1}
SIDES = ["ours", "by hand", "full"]
COMPARISONS = [
    ("LoRA: TransferTrainer and add_adapter, against PEFT and Trainer", "ours", "by hand", "at most 1.02"),
    ("LoRA against full fine-tuning, both TransferTrainer", "ours", "full", ""),
]


def model_of(side: str) -> Any:
    torch.manual_seed(0)
    model = BertForSequenceClassification(config())
    if side == "full":
        return model
    if side == "ours":
        return add_adapter(model, "lora", target_modules=TARGETS, modules_to_save=["classifier"], **OPTIONS)
    from peft import LoraConfig, get_peft_model

    by_hand = LoraConfig(task_type="SEQ_CLS", target_modules=TARGETS, modules_to_save=["classifier"], **OPTIONS)
    return get_peft_model(model, by_hand)


def trained(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}


def trainer_of(side: str, steps: int, folder: str, *callbacks: TrainerCallback) -> Trainer:
    count = ROWS * steps
    data = {
        "input_ids": torch.randint(5, 30000, (count, TOKENS)).tolist(),
        "labels": torch.randint(0, 2, (count,)).tolist(),
    }
    args = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=ROWS,
        max_steps=steps,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    kind = Trainer if side == "by hand" else TransferTrainer
    return kind(model_of(side), args, train_dataset=Dataset.from_dict(data), callbacks=list(callbacks))


def seconds_of(side: str, steps: int) -> list[float]:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(side, steps, folder, clock).train()
    return clock.seconds[2:]  # the first steps allocate


def peak_of(side: str) -> float:
    """Mebibytes that training takes, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (side,))


def _peak_here(side: str) -> float:
    import peft  # noqa: F401  # so that no side pays for the import

    before = peak_mebibytes()
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(side, 4, folder).train()
    return peak_mebibytes() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=22, help="optimizer steps of a turn, the first two not counted")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each side")
    options = parser.parse_args()
    logging.set_verbosity_error()
    same = trained(model_of("ours"))
    if same != trained(model_of("by hand")):
        raise SystemExit("the two sides do not train the same parameters")
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(options.rounds):
        for side in SIDES if turn % 2 == 0 else reversed(SIDES):
            times[side] += seconds_of(side, options.steps)
    medians = {side: statistics.median(values) for side, values in times.items()}
    peaks = {side: statistics.median(peak_of(side) for _ in range(3)) for side in SIDES}
    write = sys.stdout.write
    write(f"threads: {torch.get_num_threads()}, steps of each side: {len(times['ours'])}, ")
    write(f"LoRA trains {sum(torch.Size(shape).numel() for shape in same.values()):,} parameters\n\n")
    write("| comparison | first | second | time ratio | memory | memory ratio | wanted |\n")
    write("|---|---|---|---|---|---|---|\n")
    for title, first, second, wanted in COMPARISONS:
        write(
            f"| {title} | {1e3 * medians[first]:.0f} ms | {1e3 * medians[second]:.0f} ms | "
            f"{medians[first] / medians[second]:.3f} | {peaks[first]:.0f} MiB, {peaks[second]:.0f} MiB | "
            f"{peaks[first] / peaks[second]:.3f} | {wanted} |\n"
        )


if __name__ == "__main__":
    main()
