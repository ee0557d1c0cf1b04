"""
What each fine-tuning method costs beside plain fine-tuning of the same model, in one run:

    python -m tests.benchmarks.method_cost

Prints a Markdown table of step time and peak memory as ratios to a `TransferTrainer` without any method. Text methods
are measured on a BERT of MiniLM's size, those for images on a ResNet with batch normalisation. Rounds alternate
between the methods, so that a slow minute hits all of them; memory is measured in a process for each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    TrainerCallback,
    logging,
)

from hf_transfer import TransferArguments, TransferTrainer
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.recipe_arguments import ModelArguments
from tests.benchmarks.trainer_overhead import Clock, peak_mebibytes


ROWS, TOKENS, PIXELS, CLASSES = 16, 48, 96, 10
PLAIN = "plain"
TEXT: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "`L2SP`": {"l2sp": 0.01},
    # its channel weights are worked out once before the first step, which is no part of a step
    "`DELTA` (a second forward)": {"delta": 0.1, "delta_attention": False},
    "`BatchSpectralShrinkage`": {"bss": 1e-3},
    "`LearningWithoutForgetting` (a second forward)": {"lwf": 1.0},
    "`CoTuning`": {"co_tuning": 2.3},
    "`BiTuning`": {"bi_tuning": 1.0},
    "`SupervisedContrastive`": {"supervised_contrastive": 0.1},
    "`RDrop` (twice the rows)": {"r_drop": 0.5},
    "`LabelSmoothing`": {"label_smoothing": 0.1},
    "`FocalLoss`": {"focal_gamma": 2.0},
    "`ClassBalanced`": {"class_balanced": 0.999},
    "`Mixout`": {"mixout": 0.9},
    "`ExponentialMovingAverage`": {"ema": 0.999},
    "`FreezeBackbone`": {"freeze": "backbone"},
}
IMAGES: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "`Mixup`": {"mixup": 0.2},
    "`CutMix`": {"cutmix": 1.0},
    "`FreezeBatchNorm`": {"freeze_batch_norm": True},
    "`StochNorm`": {"stoch_norm": 0.5},
}


def model_of(kind: str, classes: int = CLASSES) -> Any:
    torch.manual_seed(0)
    if kind == "images":
        return ResNetForImageClassification(
            ResNetConfig(
                embedding_size=32,
                hidden_sizes=[32, 64, 128, 256],
                depths=[2, 2, 2, 2],
                layer_type="basic",
                num_labels=classes,
            )
        )
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=classes
    )
    return BertForSequenceClassification(config)


def trainer_of(
    kind: str, options: dict[str, Any], steps: int, folder: str, *callbacks: TrainerCallback
) -> TransferTrainer:
    # the source is a model of the same size with classes of its own
    source = Path(folder) / "source"
    if {"lwf", "co_tuning"} & options.keys():
        model_of(kind, classes=100).save_pretrained(source)
    methods = MethodArguments(**options)
    count = ROWS * steps
    data: dict[str, Any] = {"labels": [row % CLASSES for row in range(count)]}
    if kind == "images":
        data["pixel_values"] = torch.randn(count, 3, PIXELS, PIXELS).numpy()
    else:
        data["input_ids"] = torch.randint(5, 30000, (count, TOKENS)).tolist()
    args = TransferArguments(
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
    return TransferTrainer(
        model_of(kind),
        args,
        train_dataset=Dataset.from_dict(data).with_format("torch"),
        objectives=methods.objectives(ModelArguments(model_name_or_path=str(source))),
        callbacks=[*methods.callbacks(), *callbacks],
    )


def seconds_of(kind: str, options: dict[str, Any], steps: int) -> list[float]:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(kind, options, steps, folder, clock).train()
    return clock.seconds[2:]  # the first steps allocate


def peak_of(kind: str, options: dict[str, Any]) -> float:
    """Mebibytes that training takes, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_here, (kind, options))


def _peak_here(kind: str, options: dict[str, Any]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(kind, options, 3, folder).train()
    return peak_mebibytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.set_verbosity_error()
    write = sys.stdout.write
    for kind, methods in (("text", TEXT), ("images", IMAGES)):
        times: dict[str, list[float]] = {name: [] for name in methods}
        for _ in range(options.rounds):
            for name, settings in methods.items():
                times[name] += seconds_of(kind, settings, options.steps)
        medians = {name: statistics.median(values) for name, values in times.items()}
        plain = peak_of(kind, {})
        write(f"\n{kind}: plain fine-tuning {1e3 * medians[PLAIN]:.0f} ms a step, {plain:.0f} MiB\n\n")
        write("| method | time | peak memory |\n|---|---|---|\n")
        for name in methods:
            if name != PLAIN:
                memory = peak_of(kind, methods[name]) / plain
                write(f"| {name} | {medians[name] / medians[PLAIN]:.2f} | {memory:.2f} |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
