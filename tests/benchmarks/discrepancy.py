"""
What the discrepancies between domains cost, in one run: `python -m tests.benchmarks.discrepancy`.

Maximum mean discrepancy with 5 kernels, forward and backward, beside the three matrices of squared distances that it
needs (source to source, target to target, source to target), forward and backward as well: by matrix products, and by
`torch.cdist`. The floor is the time of the operations of its matrix products alone, at the matrix rate measured here.
The candidates take turns, so that a slow moment hits all of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from hf_transfer import (
    CentralMomentDiscrepancy,
    DeepCORAL,
    JointMaximumMeanDiscrepancy,
    LocalMaximumMeanDiscrepancy,
    MaximumMeanDiscrepancy,
    Objective,
    SlicedWasserstein,
    TransferBatch,
)


ROWS, WIDTH, CLASSES = 256, 768, 10  # rows of each domain
BOUND = 2.0


def by_product(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances, as they are usually written."""
    norms = x.square().sum(1, keepdim=True) + y.square().sum(1)
    return torch.addmm(norms, x, y.T, alpha=-2).clamp(min=0)


def by_cdist(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances from the distances of torch."""
    return torch.cdist(x, y).square()


def three_matrices(function: Callable[[Tensor, Tensor], Tensor], features: Tensor, backward: bool = True) -> None:
    """The matrices an estimate of the discrepancy takes, and a gradient through all of their entries."""
    source, target = features[:ROWS], features[ROWS:]
    with torch.set_grad_enabled(backward):
        total = sum(function(x, y).sum() for x, y in ((source, source), (target, target), (source, target)))
    if backward and isinstance(total, Tensor):
        total.backward()


def multiply(square: Tensor) -> None:
    """What the matrix rate is measured on."""
    torch.mm(square, square)


def batch_on(device: str, generator: torch.Generator) -> TransferBatch:
    features = torch.randn(2 * ROWS, WIDTH, generator=generator).to(device).requires_grad_()
    logits = torch.randn(2 * ROWS, CLASSES, generator=generator).to(device).requires_grad_()
    domain = torch.arange(2 * ROWS, device=device) // ROWS
    labels = torch.randint(CLASSES, (2 * ROWS,), generator=generator).to(device)
    return TransferBatch(features, logits, torch.where(domain == 0, labels, -100), domain)


def times_of(candidates: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, float]:
    """Median milliseconds of each candidate; the first rounds warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds + 5):
        for name, run in candidates.items():
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values[5:]) for name, values in seconds.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = options.device
    batch = batch_on(device, torch.Generator().manual_seed(0))
    features = batch.features
    square = torch.randn(1024, 1024, device=device)

    def step(objective: Objective) -> Callable[[], None]:
        return lambda: objective(batch).backward()

    terms = {
        "`MaximumMeanDiscrepancy`": MaximumMeanDiscrepancy(),
        "`JointMaximumMeanDiscrepancy`": JointMaximumMeanDiscrepancy(),
        "`LocalMaximumMeanDiscrepancy`": LocalMaximumMeanDiscrepancy(),
        "`DeepCORAL`": DeepCORAL(),
        "`CentralMomentDiscrepancy`": CentralMomentDiscrepancy(),
        "`SlicedWasserstein`": SlicedWasserstein(),
    }
    product, cdist = "three matrices, by products", "three matrices, by `torch.cdist`"
    candidates: dict[str, Callable[[], None]] = {
        product: lambda: three_matrices(by_product, features),
        f"{product}, forward alone": lambda: three_matrices(by_product, features, backward=False),
        cdist: lambda: three_matrices(by_cdist, features),
        **{name: step(objective) for name, objective in terms.items()},
        "matrix rate": lambda: multiply(square),
    }
    times = times_of(candidates, options.rounds, device)
    rate = 2 * 1024**3 / times.pop("matrix rate")  # operations per millisecond
    # one product of all rows with all rows forward, one of the gradient with the rows backward
    floor = 2 * 2 * (2 * ROWS) ** 2 * WIDTH / rate
    write = sys.stdout.write
    write(
        f"{device}, {torch.get_num_threads()} threads, 2 x {ROWS} rows of width {WIDTH}, {rate / 1e6:.1f} GFLOP/s\n\n"
    )
    write("| forward and backward | ms | to the three matrices by products | to the floor |\n|---|---|---|---|\n")
    for name, value in {"matrix products of MMD at the matrix rate (floor)": floor, **times}.items():
        write(f"| {name} | {value:.2f} | {value / times[product]:.2f} | {value / floor:.2f} |\n")
    ratio = times["`MaximumMeanDiscrepancy`"] / times[product]
    write(f"\nMMD with 5 kernels: {ratio:.2f} of the three matrices; bound {BOUND}.\n")
    if ratio > BOUND:
        raise SystemExit(f"{ratio:.2f} is above the bound of {BOUND}.")


if __name__ == "__main__":
    main()
