"""Runs that must end the same on one rank and on two: `python -m tests.callbacks.ranks NAME OUT`. Rank 0 saves."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks import GradualUnfreezing
from hf_transfer.callbacks.freezer import Freezer
from tests.callbacks.harness import copy_of, make_trainer, seeded
from tests.models import batch_for, tiny_vit


WORLD = int(os.environ.get("WORLD_SIZE", "1"))


def trainer(out: str, options: str = "{}") -> None:
    """`GradualUnfreezing` in a stock Trainer, under DDP where there are several ranks."""
    settings = {"per_device_train_batch_size": 8 // WORLD, "optim": "sgd", **json.loads(options)}
    if WORLD > 1:
        settings["ddp_backend"] = "gloo"
    model = seeded(tiny_vit)
    run = make_trainer(Path(out).parent, model, GradualUnfreezing(stages=3), **settings)
    run.train()
    if run.is_world_process_zero():
        torch.save(copy_of(model), out)


def fsdp2(out: str) -> None:
    """A bare loop that freezes and thaws sharded parameters; the Trainer shards on accelerators only."""
    model = seeded(tiny_vit)
    rank = 0
    batch = {name: value for name, value in batch_for(model, 8).items() if name != "domain"}
    if WORLD > 1:
        dist.init_process_group("gloo")
        rank = dist.get_rank()
        for layer in model.vit.layers:
            fully_shard(layer)
        fully_shard(model)
        batch = {name: value.chunk(WORLD)[rank] for name, value in batch.items()}
    parts = anatomy(model).parts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    freezer = Freezer(model, dict(model.named_parameters()))
    for phase in (["head"], ["head", "block.1"], list(parts), ["block.0"], ["head", "embeddings"]):
        freezer.train_only({name for part in phase for name in parts[part]})
        for _ in range(2):
            model.train()(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    freezer.release()
    whole = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in model.named_parameters()}
    if rank == 0:
        torch.save({name: parameter.detach() for name, parameter in whole.items()}, out)
    if WORLD > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    {"trainer": trainer, "fsdp2": fsdp2}[sys.argv[1]](*sys.argv[2:])
