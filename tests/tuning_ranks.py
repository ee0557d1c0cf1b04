"""A range test and a search on several ranks: `torchrun -m tests.tuning_ranks FOLDER` writes FOLDER/<rank>.json."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch

from hf_transfer import L2SP, DomainAdversarial, GradualUnfreezing, TransferTrainer
from hf_transfer.lr_find import lr_find
from hf_transfer.search import search, search_space
from tests import models
from tests.test_trainer import QUIET, arguments, labelled, mixed, seeded, weights


def trained(folder: Path, swept: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
    args = arguments(folder, ddp_backend="gloo", lr_schedule="one_cycle", head_lr=0.1, max_steps=6)
    trainer = TransferTrainer(
        seeded(models.tiny_bert),
        args,
        train_dataset=mixed(),
        objectives=[DomainAdversarial(hidden_size=4), L2SP()],
        callbacks=[GradualUnfreezing(stages=2)],
    )
    torch.manual_seed(args.process_index)
    losses = list(lr_find(trainer, start=1e-5, end=1.0, steps=9).losses) if swept else []
    trainer.train()
    return losses, weights(trainer.model)


def searched(folder: Path) -> dict:
    args = arguments(folder, ddp_backend="gloo", max_steps=-1, num_train_epochs=1, eval_strategy="epoch")
    trainer = TransferTrainer(
        model_init=lambda: models.tiny_bert(**QUIET), args=args, train_dataset=labelled(), eval_dataset=labelled()
    )
    # the second of the two has more stages than the model has blocks
    none = {"head_lr": None, "layer_decay": None, "lr_schedule": None, "num_train_epochs": None, "stages": (0, 9)}
    found = search(trainer, 4, space=partial(search_space, **none))
    return {"settings": found.settings, "score": found.score, "states": [trial.state for trial in found.trials]}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    (_, without), (losses, after) = trained(folder, False), trained(folder, True)
    same = all(torch.equal(value, after[name]) for name, value in without.items())
    result = {"losses": losses, "same": same, "search": searched(folder)}
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
