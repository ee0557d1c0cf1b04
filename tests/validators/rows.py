"""Data sets of random rows for the tiny models."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from torch import nn

from tests.models import batch_for


def rows_of(model: nn.Module, rows: int = 12, *, seed: int = 0, labels: Any = True) -> Dataset:
    """Random rows that the model takes, as a `Dataset`; `labels` in place of its own, or none if false."""
    batch = batch_for(model, rows, seed=seed)
    columns = {name: value.tolist() for name, value in batch.items() if name not in ("domain", "labels")}
    if labels is not False:
        columns["labels"] = batch["labels"].tolist() if labels is True else list(labels)
    return Dataset.from_dict(columns)
