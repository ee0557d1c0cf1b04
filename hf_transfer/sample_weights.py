"""The column `sample_weight`: whether data has it, and whether its values can be weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_transfer.functional.task_loss import SAMPLE_WEIGHT


__all__ = ["check_shape", "check_values", "has_sample_weight"]


def has_sample_weight(dataset: Any) -> bool:
    """
    Whether the rows of a data set have a column `sample_weight`.

    A stream of `datasets` that does not know its columns, and a torch data set, are asked for one row. A torch stream,
    which cannot be asked twice, counts as without.

    Example:
        >>> from datasets import Dataset
        >>> has_sample_weight(Dataset.from_dict({"text": ["a"], "sample_weight": [1.0]}))
        True
    """
    columns = getattr(dataset, "column_names", None)
    if columns is not None:
        return SAMPLE_WEIGHT in columns
    with torch.random.fork_rng(devices=[]):  # the order of the batches does not depend on the question
        if hasattr(dataset, "_resolve_features"):  # a stream of `datasets`, which starts anew each time
            row = next(iter(dataset), None)
        elif hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and len(dataset):
            row = dataset[0]
        else:
            row = None
    return isinstance(row, Mapping) and SAMPLE_WEIGHT in row


def check_shape(weight: Tensor, rows: int) -> None:
    """
    Check that there is one weight a row, without reading any.

    Raises:
        ValueError: if there is not.
    """
    if weight.shape != (rows,):
        raise ValueError(
            f"Column `{SAMPLE_WEIGHT}` has shape {tuple(weight.shape)} in a batch of {rows} rows: which weight "
            "belongs to which row is not known. Give one number a row; for token classification it holds for all of "
            "its tokens."
        )


def check_values(weight: Tensor) -> None:
    """
    Check that weights are finite and not negative. It reads values back from the device: call it once.

    Raises:
        ValueError: if one is not.
    """
    wrong = ~(weight.isfinite() & (weight >= 0))
    if wrong.any():
        raise ValueError(
            f"Column `{SAMPLE_WEIGHT}` holds {weight[wrong][0].item()}: a negative weight trains the model to be "
            "wrong on the row, and one that is not finite makes the loss NaN. Give numbers from 0 on, with mean 1 "
            "over the rows, as `reweight` and `importance_weights` do."
        )
