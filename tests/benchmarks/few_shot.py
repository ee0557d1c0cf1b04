"""
What few-shot evaluation costs: `python -m tests.benchmarks.few_shot`.

For 1 and 5 shots, 5 classes and 15 queries of each, on random features: seconds of all methods over the same episodes,
and of prototypes by a loop over episodes, which draws with NumPy's own generator and classifies with `torch.cdist`. In
every round all take their turn, and the fastest of the rounds counts. Drawing and gathering an episode's rows is part
of every figure.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from hf_transfer.few_shot import Episodes, evaluate_few_shot
from hf_transfer.few_shot.evaluation import METHODS


LOOP = "prototypes, a loop"


def rows_of(classes: int, each: int, width: int) -> tuple[torch.Tensor, np.ndarray]:
    """Features of classes that overlap, and their labels."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    features = 0.5 * generator.standard_normal((classes, width))[labels]
    return torch.from_numpy((features + 2 * generator.standard_normal(features.shape)).astype(np.float32)), labels


def by_loop(features: torch.Tensor, labels: np.ndarray, shots: int, episodes: int) -> float:
    """Mean accuracy of prototypes, one episode after the other."""
    generator, right = np.random.default_rng(0), []
    members = [np.flatnonzero(labels == number) for number in np.unique(labels)]
    truth = torch.arange(5).repeat_interleave(15)
    for _ in range(episodes):
        drawn = [
            generator.permutation(members[number])[: shots + 15]
            for number in generator.choice(len(members), 5, replace=False)
        ]
        support = torch.stack([features[rows[:shots]].mean(0) for rows in drawn])
        query = torch.cat([features[rows[shots:]] for rows in drawn])
        right.append(float((torch.cdist(query, support).argmin(1) == truth).float().mean()))
    return float(np.mean(right))


def seconds_of(task: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--rows", type=int, default=600, help="rows of each class")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    features, labels = rows_of(options.classes, options.rows, options.width)
    features = features.to(options.device)

    def task(method: str, shots: int) -> Callable[[], object]:
        if method == LOOP:
            return lambda: by_loop(features.cpu(), labels, shots, options.episodes)
        return lambda: evaluate_few_shot(
            features, labels, methods=[method], k_shot=shots, episodes=options.episodes, device=options.device
        )

    best: dict[tuple[str, int], float] = {}
    for _ in range(options.rounds):
        for method in (*METHODS, LOOP):
            for shots in (1, 5):
                took = seconds_of(task(method, shots))
                best[method, shots] = min(took, best.get((method, shots), took))
    draw = {
        shots: min(
            seconds_of(lambda shots=shots: Episodes(labels, k_shot=shots).draw(range(options.episodes)))
            for _ in range(options.rounds)
        )
        for shots in (1, 5)
    }
    where = f"{options.threads} thread(s), {options.device}"
    print(f"{options.episodes} episodes, {options.width} wide features, {where}\n")
    print("| method | 1 shot | 5 shots | both |")
    print("|---|---|---|---|")
    for method in (*METHODS, LOOP):
        one, five = best[method, 1], best[method, 5]
        print(f"| {method} | {one:.2f} s | {five:.2f} s | {one + five:.2f} s |")
    print(f"| drawing alone | {draw[1]:.3f} s | {draw[5]:.3f} s | {draw[1] + draw[5]:.3f} s |")


if __name__ == "__main__":
    main(sys.argv[1:])
