"""A comparison without any training: a clock that runs advance, scores that are given, strategies that do nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hf_transfer.compare.cells import FAILED, SKIPPED, CellKey, CellResult, Costs, Predictions
from hf_transfer.compare.execution.store import CellStore
from hf_transfer.compare.planning.budget import Clock
from hf_transfer.compare.planning.estimates import step_speed
from hf_transfer.compare.planning.scheduling import run_comparison
from hf_transfer.compare.strategies.strategy import Strategy
from hf_transfer.recipe_arguments import LoopArguments


ROWS = 20
STEPS = 10


class Planned(Strategy):
    """It is never asked to fit."""

    def fit(self, setup):
        raise NotImplementedError


MAJORITY = Planned(name="majority", baseline=True)
SCRATCH = Planned(name="scratch", baseline=True, rate="scratch")
PROBE = Planned(name="probe")
FULL = Planned(name="full", rate="whole")
L2SP = Planned(name="l2sp", rate="whole")
GRADUAL = Planned(name="gradual", rate="whole")
LORA = Planned(name="lora", rate="adapter")
EVERY = [MAJORITY, SCRATCH, PROBE, FULL, GRADUAL, L2SP, LORA]
SECONDS = {"majority": 0.1, "probe": 1.0, "scratch": 10.0, "lora": 8.0}
RATES = {("m", "whole"): 1e-4, ("m", "adapter"): 1e-3, ("m", "scratch"): 1e-3}


class Killed(BaseException):
    """The process is gone."""


class World:
    """
    Where runs take `seconds` by strategy and score `scores` by strategy and seed.

    Args:
        scores (`dict`): right rows of 20 by strategy, or by strategy and seed.
        broken (`set`): strategies that fail.
        killed_after (`int`, *optional*): runs after which the process is gone.
    """

    def __init__(self, scores: dict[Any, int], *, broken=(), killed_after: int | None = None, labels=("m",)):
        self.scores, self.broken, self.killed_after = scores, set(broken), killed_after
        self.now = 100.0
        self.ran: list[CellKey] = []
        self.rates: list[float] = []
        data = SimpleNamespace(train=range(100), eval=range(ROWS), test=None)
        models = [SimpleNamespace(label=label) for label in labels]
        self.problem: Any = SimpleNamespace(
            models=models, metric="accuracy", regression=False, by_folds=False, data=data, setup=self.setup
        )
        self.problem.fingerprint = lambda model=None: f"rows of {model}"

    def setup(self, key: CellKey, args: LoopArguments) -> Any:
        if "setup" in self.broken:
            raise OSError("no such file: /home/anna/pictures/cat.png")
        self.rates.append(args.learning_rate)
        return SimpleNamespace(key=key)

    def seconds(self, key: CellKey) -> float:
        return SECONDS.get(key.strategy, 12.0)

    def right(self, key: CellKey) -> int:
        return self.scores.get((key.strategy, key.seed), self.scores.get(key.strategy, 0))

    def run_cell(self, key, strategy, setup, store, *, fingerprint, deadline=None) -> CellResult:
        """In place of the true one."""
        if self.killed_after is not None and len(self.ran) == self.killed_after:
            raise Killed
        assert setup.key == key
        self.ran.append(key)
        if deadline is not None and self.now + self.seconds(key) > deadline:
            self.now = max(self.now, deadline) + 0.5  # it stops at the next step
            result = CellResult(key, fingerprint, SKIPPED, "the budget ended")
            store.add(result)
            return result
        self.now += self.seconds(key)
        if strategy.name in self.broken:
            result = CellResult(key, fingerprint, FAILED, "ran out of memory")
            store.add(result)
            return result
        right = self.right(key)
        labels = np.zeros(ROWS, dtype=np.int64)
        logits = np.zeros((ROWS, 2), dtype=np.float32)
        logits[:right, 0] = logits[right:, 1] = 1.0
        costs = Costs(self.seconds(key), trained_parameters={"probe": 5, "lora": 50}.get(strategy.name, 500))
        result = CellResult(key, fingerprint, scores={"validation_accuracy": right / ROWS}, costs=costs)
        store.add(result, {"validation": Predictions(np.arange(ROWS), labels, logits)})
        return result

    def clock(self, folder: Path | None = None, *, trials: bool = True) -> Clock:
        """That starts now, and knows how long a step takes."""
        clock = Clock(folder, now=lambda: self.now)
        if trials:
            for model in self.problem.models:
                for group, seconds in {"whole": 12.0, "adapter": 8.0, "scratch": 10.0}.items():
                    clock.speeds[step_speed(model.label, group)] = seconds / STEPS
                clock.speeds[f"{model.label}/row"] = 1.0 / (100 + ROWS)
        return clock

    def compare(self, folder: Path, strategies=EVERY, seeds=(0, 1, 2), **options) -> dict[tuple[str, int], CellResult]:
        """Results by strategy and seed."""
        options = {"progress": False, "rates": RATES, "clock": self.clock(folder), **options}
        store = CellStore(folder, {"steps": STEPS})
        store.check_settings()
        results = run_comparison(self.problem, strategies, seeds, loop(folder), store, **options)
        return {(result.key.strategy, result.key.seed): result for result in results}

    def order(self) -> list[str]:
        """What ran, as `full 0`."""
        return [f"{key.strategy} {key.seed}" for key in self.ran]


def loop(folder: Path, **options) -> LoopArguments:
    return LoopArguments(output_dir=str(folder), **{"max_steps": STEPS, "use_cpu": True, **options})
