"""Ranks that share runs: `torchrun -m tests.compare.comparing_ranks FOLDER` writes FOLDER/<rank>.json and weights."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import save_file
from torch import distributed
from transformers import TrainingArguments

from hf_transfer import L2SP, BiTuning, DomainAdversarial, TransferTrainer, extract_features
from hf_transfer.compare.cells import CellKey, CellResult
from hf_transfer.compare.execution import ranks
from tests import models
from tests.test_trainer import QUIET, arguments, labelled, mixed, seeded, weights


CELLS = [CellKey("bert", "full", seed) for seed in range(3)]
STEPS = {0: 3, 1: 8, 2: 5}
"""Of every run: ranks that waited for each other's steps would hang."""


def trained(key: CellKey, folder: Path) -> CellResult:
    """A run whose objectives and loaders all ask for other ranks: gathered rows, a game, two domains, features."""
    torch.manual_seed(key.seed)
    model = models.tiny_bert(**QUIET)
    args = arguments(folder / str(key.seed), max_steps=STEPS[key.seed], seed=key.seed, head_lr=0.02)
    objectives = [DomainAdversarial(hidden_size=4), L2SP(), BiTuning(queue_length=2, projection=4)]
    trainer = TransferTrainer(model, args, train_dataset=mixed(), eval_dataset=labelled(), objectives=objectives)
    trainer.train()
    assert trainer.model_wrapped is model and args.world_size == 1 and args.parallel_mode.value != "distributed"
    said = trainer.predict(labelled())  # pyright: ignore[reportArgumentType]
    features = extract_features(model, labelled(), cache_dir=folder / "cache" / str(key.seed), progress=False)
    assert len(features) == len(labelled()) == len(said.predictions)
    save_file(weights(model), folder / f"{key.seed}.safetensors")
    scores = {
        "validation_loss": (said.metrics or {})["test_loss"],
        "norm": float(np.linalg.norm(features["features"])),
    }
    return CellResult(key, "f", scores=scores, steps=trainer.state.global_step)


def surroundings() -> list[Any]:
    """Everything by which a process knows of others."""
    states = [copy.copy(state._shared_state) for state in (PartialState, AcceleratorState, GradientState)]
    return [dict(os.environ), *states, distributed.group.WORLD, vars(TrainingArguments)["_setup_devices"]]


def same(first: list[Any], second: list[Any]) -> bool:
    return all(one is two or one == two for one, two in zip(first, second, strict=True))


def error_of(work: Callable[[], Any]) -> str:
    try:
        return str(work())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def within(before: TrainingArguments) -> dict[str, Any]:
    """What a process sees of the others in `alone`."""
    rank = distributed.get_rank()
    seen: dict[str, Any] = {}
    try:
        with ranks.alone(), ranks.alone():
            seen["initialized"] = distributed.is_initialized()
            seen["variables"] = sorted({"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} & os.environ.keys())
            seen["ranks"] = [before.world_size, before.process_index, PartialState().num_processes]
            seen["main"] = PartialState().is_main_process and before.should_save
            seen["gather"] = error_of(lambda: ranks.gather([]))
            os.environ["RANK"] = "77"
            arguments(".")  # resets the states
            raise KeyError(rank)
    except KeyError as error:
        seen["error"] = error.args[0] == rank
    return seen


def failing(rank: int) -> dict[str, str]:
    """Parts of one rank that fail; the other learns of it, and both go on."""

    def part() -> list[CellResult]:
        if rank == 1:
            raise ValueError("the second\n  rank")
        return [CellResult(CELLS[0], "f")]

    def first() -> str:
        raise OSError("disk full")

    return {
        "part": error_of(lambda: ranks.together(part)),
        "first": error_of(lambda: ranks.of_first(first)),
        "runs": error_of(lambda: ranks.share(CELLS[: 2 + rank])),
    }


def folders(rank: int, folder: Path) -> dict[str, str]:
    ranks._SIGHT = 0.3
    return {
        "shared": error_of(lambda: ranks.check_shared_folder(folder / "shared")),
        "own": error_of(lambda: ranks.check_shared_folder(folder / f"own{rank}")),
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    args = arguments(folder, ddp_backend="gloo", max_steps=1)
    rank, result = args.process_index, {}
    before = surroundings()
    result["within"] = within(args)
    result["put_back"] = same(before, surroundings())
    # estimates differ on every rank: those of the first count
    mine = ranks.share(CELLS, [3.0, 8.0, 5.0] if rank == 0 else [1.0, 1.0, 1.0])
    result["mine"] = [key.seed for key in mine]
    result["failing"] = failing(rank)
    result["folders"] = folders(rank, folder)
    result["gathered"] = [cell.to_json() for cell in ranks.together(lambda: [trained(key, folder) for key in mine])]
    result["first"] = ranks.of_first(lambda: {"who": rank})
    result["put_back_again"] = same(before, surroundings())
    # and the ranks train one model together as ever
    trainer = TransferTrainer(seeded(models.tiny_bert), args, train_dataset=mixed(), objectives=[L2SP()])
    trainer.train()
    result["together"] = [type(trainer.model_wrapped).__name__, args.world_size]
    (folder / f"{rank}.json").write_text(json.dumps(result))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
