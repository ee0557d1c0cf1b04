"""
Every weighting for some steps, on one rank or on two: `python -m tests.objectives.task_weighting_ranks OUT`.

Each rank writes OUT.<rank>.safetensors: weights of the backbone and state of the objective, by weighting.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from hf_transfer import MultiTask, attach
from hf_transfer.objectives.multitask.weightings import (
    DynamicWeightAverage,
    FastAdaptiveWeighting,
    GradientNormalization,
    RandomWeighting,
    SmoothTchebycheff,
    TaskWeighting,
    UncertaintyWeighting,
)
from tests.models import tiny_bert
from tests.objectives.task_rows import STARS, TOPIC, task_batch


WEIGHTINGS: dict[str, Callable[[], TaskWeighting]] = {
    "equal": TaskWeighting,
    "uncertainty": lambda: UncertaintyWeighting(speed=2.0),
    "dwa": lambda: DynamicWeightAverage(window=2),
    "gradnorm": lambda: GradientNormalization(window=2, rate=0.1),
    "random": RandomWeighting,
    "tchebycheff": lambda: SmoothTchebycheff(window=2),
    "famo": lambda: FastAdaptiveWeighting(window=2),
}
TASKS = (TOPIC, STARS)
STEPS = 6


def batches(model, step: int, parts: int) -> list[dict[str, Tensor]]:
    """Eight rows in equal parts, each with as many rows of either task."""
    whole = task_batch(model, TASKS, 8, seed=step)
    size = 8 // parts
    return [{key: x[n * size : (n + 1) * size] for key, x in whole.items()} for n in range(parts)]


def trained(name: str, mine: Sequence[int], parts: int, wrap=lambda model: model) -> dict[str, Tensor]:
    """Some steps on the given parts of each batch, accumulated."""
    torch.manual_seed(0)
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    with attach(model, [MultiTask(TASKS, weighting=WEIGHTINGS[name]())]) as attachment:
        wrapped = wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        for step in range(STEPS):
            attachment.progress = step / STEPS
            given = batches(model, step, parts)
            for number, part in enumerate(mine):
                if hasattr(wrapped, "require_backward_grad_sync"):
                    wrapped.require_backward_grad_sync = number == len(mine) - 1
                (wrapped(**given[part]).loss / len(mine)).backward()
            optimizer.step()
            optimizer.zero_grad()
        state = {f"{name}.{key}": value.clone() for key, value in attachment.objectives.state_dict().items()}
    return {**state, **{f"{name}.model.{key}": p.detach().clone() for key, p in model.named_parameters()}}


def main(out: str) -> None:
    rank = int(os.environ["RANK"])
    distributed.init_process_group("gloo")
    found: dict[str, Tensor] = {}
    for name in WEIGHTINGS:
        found.update(trained(name, [rank], 2, DistributedDataParallel))
        accumulated = trained(name, [2 * rank, 2 * rank + 1], 4, DistributedDataParallel)
        found.update({f"accumulated.{key}": value for key, value in accumulated.items()})
    distributed.destroy_process_group()
    save_file(found, f"{out}.{rank}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
