"""
Two steps of meta-training on one or several ranks: `torchrun -m tests.meta.ranks FOLDER`.

Writes the states and scores to FOLDER/<ranks>.safetensors.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.meta.rows import state_of, trainer_of


CASES = [("maml", "all"), ("anil", "scale_shift"), ("reptile", "all"), ("meta_sgd", "head")]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    found = {}
    for algorithm, parameters in CASES:
        trainer = trainer_of(
            folder / algorithm,
            algorithm=algorithm,
            parameters=parameters,
            optim="sgd",
            learning_rate=0.1,
            ddp_backend="gloo" if ranks > 1 else None,
        )
        trainer.train()
        found |= {f"{algorithm}.{name}": value for name, value in state_of(trainer.model).items()}
        scores = trainer.evaluate()
        found[f"{algorithm}.score"] = torch.tensor([scores["eval_accuracy"], scores["eval_loss"]])
        last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
        found[f"{algorithm}.logged"] = torch.tensor([last["loss"], last.get("query_accuracy", 0.0)])
    if trainer.is_world_process_zero():
        save_file({name: value.float().contiguous() for name, value in found.items()}, folder / f"{ranks}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
