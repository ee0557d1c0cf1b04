"""What a model says of prepared rows: logits in the order of the rows, and nothing is disturbed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn

from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.modes import undisturbed
from hf_transfer.series_models import named_output
from hf_transfer.source import inputs_of


__all__ = ["padded_labels", "predict_logits"]


def predict_logits(
    model: nn.Module,
    rows: Dataset,
    collate: Callable[[list[dict[str, Any]]], Any],
    *,
    batch_size: int,
    tokens: bool = False,
    left: bool = False,
) -> np.ndarray:
    """
    Logits of rows in their order, float32; the model runs where it is, in evaluation mode.

    Texts are sorted by length, so that little is padded.

    Args:
        model (`nn.Module`): any classifier, also under PEFT.
        rows (`Dataset`): prepared.
        collate (`Callable`): makes a batch of rows.
        batch_size (`int`): rows of a batch.
        tokens (`bool`, *optional*, defaults to `False`): whether each token has logits.
        left (`bool`, *optional*, defaults to `False`): whether `collate` pads on the left.

    Shape:
        - returns `(N, C)`, or `(N, T, C)` with the tokens of a row from the first place on, and zeros behind them.
    """
    device = next(model.parameters()).device
    lengths = _lengths(rows)
    order = np.arange(len(rows)) if lengths is None else np.argsort(-lengths, kind="stable")
    longest = int(lengths.max()) if lengths is not None and len(rows) else 0
    found: np.ndarray | None = None
    with undisturbed(model):
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = collate(rows.__getitems__(places.tolist()))
            output: Any = model(**inputs_of(model, batch, device))
            logits: Any = output[named_output(output)] if isinstance(output, dict) else output[0]
            values: np.ndarray = logits.float().cpu().numpy()
            if found is None:
                shape = (len(rows), longest, values.shape[-1]) if tokens else (len(rows), *values.shape[1:])
                found = np.zeros(shape, np.float32)
            if not tokens:
                found[places] = values
                continue
            for place, row in zip(places, values, strict=True):
                length = 0 if lengths is None else int(lengths[place])
                found[place, :length] = row[-length:] if left else row[:length]
    return np.zeros((0, 0), np.float32) if found is None else found


def padded_labels(rows: Dataset) -> np.ndarray:
    """
    The labels of prepared rows: `(N,)`, or for tokens `(N, T)`, -100 behind the last.

    Example:
        >>> padded_labels(Dataset.from_dict({"labels": [[0, 1], [1]]})).tolist()
        [[0, 1], [1, -100]]
    """
    column: Any = rows.select_columns(["labels"]).with_format("arrow")[:]["labels"]
    if not hasattr(column.type, "value_type"):
        return column.to_numpy()
    lists = column.to_pylist()
    found = np.full((len(lists), max(map(len, lists), default=0)), UNLABELLED, np.int64)
    for row, values in zip(found, lists, strict=True):
        row[: len(values)] = values
    return found


def _lengths(rows: Dataset) -> np.ndarray | None:
    if "input_ids" not in rows.column_names:
        return None
    column: Any = rows.select_columns(["input_ids"]).with_format("arrow")[:]["input_ids"]
    return np.concatenate([chunk.value_lengths().to_numpy() for chunk in column.chunks] or [np.zeros(0, np.int64)])
