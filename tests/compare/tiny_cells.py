"""Runs of a comparison in milliseconds: a setup of a few rows for a tiny BERT, and strategies that are logged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import default_data_collator

from hf_transfer.compare.cells import CellKey
from hf_transfer.compare.execution.running import run_cell
from hf_transfer.compare.strategies.fine_tune import FineTune
from hf_transfer.recipe_arguments import LoopArguments
from tests.models import NUM_LABELS, VOCABULARY, tiny_bert


STEPS = 3
PROBLEM = SimpleNamespace(
    task="text-classification",
    metric="accuracy",
    regression=False,
    label_names=["a", "b", "c"],
    data=SimpleNamespace(task="text-classification", input_columns=("text",)),
)


class TinyProcessor:
    """Leaves a file, as a tokenizer does."""

    def save_pretrained(self, folder, **_):
        (Path(folder) / "tokenizer.json").write_text("{}")


@cache
def rows(count: int, seed: int) -> Dataset:
    """Sentences whose first word tells their class."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(NUM_LABELS, VOCABULARY, (count, 6))
    labels = np.arange(count) % NUM_LABELS
    ids[:, 0] = labels
    columns: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels}
    return Dataset.from_dict({name: values.tolist() for name, values in columns.items()}).with_format("torch")


class TinySetup:
    """What `Problem.setup` gives, of generated rows."""

    def __init__(self, folder: Any, seed: int = 0, *, share: float = 1.0, model: Any = tiny_bert, steps: int = STEPS):
        self.problem, self.base = PROBLEM, SimpleNamespace(name="tiny", label="tiny", in_memory=True)
        self.seed, self.share, self.model = seed, share, model
        self.train, self.validation, self.test = rows(12, 1), rows(9, 2), rows(6, 3)
        self.args = LoopArguments(
            output_dir=str(folder),
            seed=seed,
            max_steps=steps,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            head_lr=1e-2,
            eval_strategy="no",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        self.train_labels = np.array(self.train["labels"])
        self.collate, self.processor, self.device = default_data_collator, TinyProcessor(), torch.device("cpu")
        self.target = self.teacher = None

    def fresh(self):
        torch.manual_seed(self.seed)
        return self.model()

    scratch = fresh

    def ids(self, split):
        return np.arange(len(getattr(self, split)))

    def labels(self, split):
        return np.array(getattr(self, split)["labels"])

    def predict(self, model, split):
        batch = self.collate(list(getattr(self, split)))
        with torch.no_grad():
            return model.eval()(**batch).logits.numpy()


@dataclass(frozen=True, kw_only=True)
class Logged(FineTune):
    """Fine-tuning that appends a line to a file whenever it begins."""

    log: str = ""
    told: str = ""

    def fit(self, setup):
        with open(self.log, "a") as file:
            file.write(f"{self.told} {self.name} {setup.seed}\n")
        return super().fit(setup)


def strategies(log: Any, told: str = "") -> list[Logged]:
    made = {"full": {}, "slow": {"options": {"learning_rate": 1e-4}}}
    return [Logged(name=name, log=str(log), told=told, **options) for name, options in made.items()]


def run_all(store, log: Any, *, seeds: int = 2, told: str = "", only: str | None = None):
    """All strategies with all seeds, those that are finished from the store."""
    found = []
    for seed in range(seeds):
        for strategy in strategies(log, told):
            if only not in (None, strategy.name):
                continue
            key = CellKey("tiny", strategy.name, seed)
            cell = store.find(key, "f")
            if cell is None:
                setup: Any = TinySetup(store.place(key), seed)
                cell = run_cell(key, strategy, setup, store, fingerprint="f")
            found.append(cell)
    return found
