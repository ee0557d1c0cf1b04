"""
What loss weighting and gradient surgery cost beside the plain sum of the losses, in one run:

    python -m tests.benchmarks.multitask [--tasks 3] [--layers 6] [--rows 16] [--steps 5]

Prints a Markdown table of the time of a training step (forward and backward) as a ratio to `MultiTask` with equal
weights, on a BERT of MiniLM's size whose rows are labelled for every task. Rounds alternate between the settings, so
that a slow minute hits all of them.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from hf_transfer import attach
from hf_transfer.multitask.task import Task
from hf_transfer.objectives.multitask.multi_task import MultiTask
from hf_transfer.objectives.multitask.surgery import METHODS, GradientSurgery


TOKENS = 48
WEIGHTINGS = ("uncertainty", "dwa", "gradnorm", "famo")


def model(layers: int, tasks: list[Task], **options: object) -> nn.Module:
    """A BERT of MiniLM's width with the tasks attached."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=1536)
    made = BertForSequenceClassification(config).train()
    attach(made, [MultiTask(tasks, **options)])  # type: ignore[arg-type]
    return made


def batch(rows: int, tasks: list[Task]) -> dict[str, Tensor]:
    """Rows with labels of all tasks."""
    ids = torch.randint(1, 1000, (rows, TOKENS))
    labels = {task.column: torch.randint(0, task.num_labels, (rows,)) for task in tasks}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.full((rows,), -100), **labels}


def seconds(of: nn.Module, given: dict[str, Tensor]) -> float:
    """The time of one step without its optimizer."""
    of.zero_grad()
    of.transfer_objectives.attachment.progress = 0.5  # type: ignore[union-attr]
    start = time.perf_counter()
    of(**given).loss.backward()
    return time.perf_counter() - start


def main(tasks: int, layers: int, rows: int, steps: int) -> None:
    """Measure and print."""
    heads = [Task(f"task_{number}", num_labels=4) for number in range(tasks)]
    settings: dict[str, dict[str, object]] = {"equal": {}}
    settings |= {word: {"weighting": word} for word in WEIGHTINGS}
    for on in ("representation", "parameters"):
        settings |= {f"{name}, {on}": {"surgery": GradientSurgery(name, on=on)} for name in METHODS}
    models = {name: model(layers, heads, **options) for name, options in settings.items()}
    given = batch(rows, heads)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(steps + 1):
        for name, made in models.items():
            times[name].append(seconds(made, given))
    plain = times["equal"][1:]
    took = 1000 * statistics.median(plain)
    print(f"{tasks} tasks, {layers} blocks, {rows} rows; equal weights: {took:.0f} ms a step\n")
    print("| setting | step time |\n|---|---|")
    for name, found in times.items():
        ratio = statistics.median(mine / base for mine, base in zip(found[1:], plain, strict=True))
        print(f"| {name} | {ratio:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    main(**vars(parser.parse_args()))
