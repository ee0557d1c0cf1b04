"""Runs of `TransferTrainer` with and without the frozen-prefix cache, and counts of what ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hf_transfer import FreezeBackbone, TransferArguments, TransferTrainer
from tests.callbacks.harness import copy_of
from tests.models import NUM_LABELS, VOCABULARY, batch_for


QUIET_GPT2 = {"embd_pdrop": 0.0}  # the dropout between its embeddings and its blocks, which no schedule rules


class RaggedRows(Dataset):
    """Texts of 3 to 9 tokens, without padding; two rows have the same length at most by chance."""

    def __init__(self, rows: int = 16, *, per_token: bool = False):
        generator = torch.Generator().manual_seed(0)
        self.rows = []
        for row in range(rows):
            length = 3 + (5 * row) % 7
            ids = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
            labels = [row % NUM_LABELS] * length if per_token else row % NUM_LABELS
            self.rows.append({"input_ids": ids, "labels": labels})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return dict(self.rows[row])


def pad(examples: list[dict[str, Any]], *, side: str = "right") -> dict[str, Tensor]:
    """A batch of ragged rows, its labels padded with -100 where they are per token."""
    longest = max(len(example["input_ids"]) for example in examples)

    def padded(values: list[int], fill: int) -> list[int]:
        more = [fill] * (longest - len(values))
        return values + more if side == "right" else more + values

    labels = [example["labels"] for example in examples]
    return {
        "input_ids": torch.tensor([padded(example["input_ids"], 0) for example in examples]),
        "attention_mask": torch.tensor([padded([1] * len(example["input_ids"]), 0) for example in examples]),
        "labels": torch.tensor([padded(label, -100) if isinstance(label, list) else label for label in labels]),
    }


def pad_left(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    return pad(examples, side="left")


class FixedRows(Dataset):
    """Rows of one size, as images are."""

    def __init__(self, model: nn.Module, rows: int = 16):
        self.batch = {name: value for name, value in batch_for(model, rows).items() if name != "domain"}

    def __len__(self) -> int:
        return len(self.batch["labels"])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: value[row] for name, value in self.batch.items()}


@dataclass
class Run:
    """What a run left behind."""

    trainer: TransferTrainer
    losses: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)


def freeze(blocks: int) -> FreezeBackbone:
    """Embeddings and the first blocks frozen."""
    return FreezeBackbone(freeze=["embeddings", *(f"block.{number}" for number in range(blocks))])


def make(
    folder: Path,
    build: Callable[[], nn.Module],
    schedule: Any,
    *,
    cache: bool,
    rows: Any = None,
    collate: Any = None,
    callbacks: Sequence[Any] = (),
    objectives: Sequence[Any] = (),
    eval_dataset: Any = None,
    **options: Any,
) -> TransferTrainer:
    torch.manual_seed(0)
    model = build()
    defaults: dict[str, Any] = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "optim": "sgd",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    args = TransferArguments(
        output_dir=str(folder / "out"),
        cache_frozen_prefix=cache,
        frozen_prefix_cache_dir=str(folder / "cache"),
        **{**defaults, **options},
    )
    return TransferTrainer(
        model,
        args=args,
        train_dataset=FixedRows(model) if rows is None else rows,
        eval_dataset=eval_dataset,
        data_collator=collate,
        callbacks=[schedule, *callbacks],
        objectives=objectives,
    )


def train(trainer: TransferTrainer, **options: Any) -> Run:
    trainer.train(**options)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return Run(trainer, losses, copy_of(trainer.model))


def both(folder: Path, build: Callable[[], nn.Module], schedule: Callable[[], Any], **options: Any) -> tuple[Run, Run]:
    """The same run without the cache and with it."""
    plain, cached = (train(make(folder, build, schedule(), cache=cache, **options)) for cache in (False, True))
    return plain, cached


def assert_same(plain: Run, cached: Run) -> None:
    """Equal losses at every step and equal weights at the end, to float tolerance; and something was learned."""
    assert len(plain.losses) == len(cached.losses) > 2
    torch.testing.assert_close(torch.tensor(cached.losses), torch.tensor(plain.losses), rtol=1e-4, atol=1e-5)
    for name, value in plain.weights.items():
        torch.testing.assert_close(cached.weights[name], value, rtol=1e-4, atol=1e-5, msg=name)


class Count:
    """Rows that went through the frozen modules' own computations, by module name."""

    def __init__(self, model: nn.Module, names: Sequence[str]):
        self.rows = dict.fromkeys(names, 0)
        for name in names:
            # a leaf inside the block: it only runs where the block does
            leaf = next(module for module in model.get_submodule(name).modules() if isinstance(module, nn.Linear))
            leaf.register_forward_hook(self._counter(name))

    def _counter(self, name: str) -> Callable[..., None]:
        def count(module: nn.Module, args: Any, output: Any) -> None:
            self.rows[name] += len(output)

        return count
