"""
What each objective for domain adaptation costs beside the plain step on the same mixed batch, in one run:

    python -m tests.benchmarks.domain_methods_cost --rounds 5

Prints a Markdown table of step times as ratios to the step of the same model without any objective, for a BERT of
MiniLM's size and a small ResNet, both of random weights. A batch has as many labelled source rows as unlabelled target
rows. Every objective of the package `domain_adaptation` that `objectives.__all__` names is measured with its defaults.
In every round all of them take their turn between two of the plain step, and a ratio is the median of the rounds', so
that a slow minute hits all alike. `--memory` adds peak memory, measured in a process for each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from transformers import logging

from hf_transfer import Objective, attach, objectives
from hf_transfer.objectives import domain_adaptation
from tests.benchmarks.method_cost import CLASSES, PIXELS, PLAIN, ROWS, TOKENS, model_of
from tests.benchmarks.trainer_overhead import peak_mebibytes


KINDS = ("text", "images")
METHODS: dict[str, type[Objective]] = {
    name: getattr(objectives, name)
    for name in objectives.__all__
    if getattr(objectives, name).__module__.startswith(f"{domain_adaptation.__name__}.")
}


def batch_of(kind: str, columns: tuple[str, ...] = ()) -> dict[str, Any]:
    """A mixed batch: `ROWS` of the source with labels and as many of the target without, in turn."""
    generator = torch.Generator().manual_seed(0)
    count = 2 * ROWS
    domain = torch.arange(count) % 2
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    if kind == "text":
        name, inputs = "input_ids", torch.randint(5, 30000, (count, TOKENS), generator=generator)
    else:
        name, inputs = "pixel_values", torch.randn(count, 3, PIXELS, PIXELS, generator=generator)
    batch: dict[str, Any] = {name: inputs, "labels": torch.where(domain == 0, labels, -100), "domain": domain}
    if "strong_view" in columns:  # as `TwoViewsCollator` makes it, of the target rows
        batch["strong_view"] = {name: inputs[1::2], "row": torch.arange(1, count, 2)}
    return batch


def steps_of(model: Any, method: str, kind: str, steps: int) -> Iterator[float]:
    """Seconds of each of `steps` training steps, after one that allocates."""
    objective = None if method == PLAIN else METHODS[method]()
    batch = batch_of(kind, () if objective is None else objective.columns)
    if objective is None:
        del batch["domain"]
    with nullcontext() if objective is None else attach(model, [objective]):
        if objective is not None and objective.learns_from_data:
            objective.fit(model, [batch])
        model.train()
        # weights hardly move, as all methods share the model
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-8)
        for step in range(steps + 1):
            start = time.perf_counter()
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step > 0:
                yield time.perf_counter() - start


def ratios_of(kind: str, rounds: int, steps: int) -> tuple[float, dict[str, float]]:
    """The seconds of a plain step, and how many of them a step takes with each method."""
    model = model_of(kind)
    plain: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(rounds):
        before = list(steps_of(model, PLAIN, kind, steps))
        times = {name: statistics.median(steps_of(model, name, kind, steps)) for name in METHODS}
        plain.append(statistics.median([*before, *steps_of(model, PLAIN, kind, steps)]))
        for name, seconds in times.items():
            ratios[name].append(seconds / plain[-1])
    return statistics.median(plain), {name: statistics.median(values) for name, values in ratios.items()}


def peak_of(kind: str, method: str) -> float:
    """Mebibytes that training takes, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (kind, method))


def _peak_here(kind: str, method: str) -> float:
    list(steps_of(model_of(kind), method, kind, 2))
    return peak_mebibytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of each method in a round")
    parser.add_argument("--memory", action="store_true", help="measure peak memory too, in a process for each")
    options = parser.parse_args()
    logging.set_verbosity_error()
    write = sys.stdout.write
    heads, columns = [], []
    for kind in KINDS:
        plain, ratios = ratios_of(kind, options.rounds, options.steps)
        write(f"{kind}: plain step on {ROWS} + {ROWS} rows {1e3 * plain:.0f} ms, {torch.get_num_threads()} threads\n")
        sys.stdout.flush()
        heads.append(f"time, {kind}")
        columns.append(ratios)
        if options.memory:
            base = peak_of(kind, PLAIN)
            heads.append(f"peak memory, {kind}")
            columns.append({name: peak_of(kind, name) / base for name in METHODS})
    write(f"\n| objective | {' | '.join(heads)} |\n|{'---|' * (1 + len(heads))}\n")
    for name in METHODS:
        write(f"| `{name}` | {' | '.join(f'{column[name]:.2f}' for column in columns)} |\n")


if __name__ == "__main__":
    main()
