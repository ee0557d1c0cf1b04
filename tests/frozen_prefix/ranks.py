"""A cached run that must end the same on one rank and on two: `python -m tests.frozen_prefix.ranks OUT CACHE`."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hf_transfer import GradualUnfreezing
from tests.callbacks.harness import copy_of
from tests.frozen_prefix.harness import RaggedRows, make, pad, train
from tests.models import tiny_bert


WORLD = int(os.environ.get("WORLD_SIZE", "1"))


def run(out: str, cache: bool) -> None:
    """Three phases, of which two have a frozen prefix; rank 0 saves the weights and what each rank ran."""
    # One row per shard and rank: both have something to store.
    from hf_transfer.frozen_prefix import table

    table._MOST_ROWS = 3
    options: dict[str, Any] = {"per_device_train_batch_size": 8 // WORLD, "num_train_epochs": 6}
    if WORLD > 1:
        options["ddp_backend"] = "gloo"
    schedule = GradualUnfreezing(stages=3, fractions=[0, 0.4, 0.8])
    # Without dropout, whose masks differ between one rank and two.
    build = partial(tiny_bert, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    trainer = make(Path(out).parent, build, schedule, cache=cache, rows=RaggedRows(), collate=pad, **options)
    frozen = [0]
    model: Any = trainer.model
    leaf = model.bert.encoder.layer[0].attention.self.query
    leaf.register_forward_hook(lambda module, args, output: frozen.__setitem__(0, frozen[0] + len(output)))
    losses = train(trainer).losses
    torch.save(
        {"weights": copy_of(trainer.model), "losses": losses, "rows": frozen[0]}, f"{out}.{trainer.args.process_index}"
    )


if __name__ == "__main__":
    run(sys.argv[1], cache=True)
