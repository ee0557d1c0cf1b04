"""Checks made before features are stored: that a row has one answer, whatever batch it is in."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import logging

from hf_transfer.features.extraction.fetched_rows import same
from hf_transfer.features.extraction.inputs import Source
from hf_transfer.features.extraction.tap_reader import TapReader
from hf_transfer.features.extraction.taps import pretrained
from hf_transfer.random_state import random_numbers_put_back


_ROWS = 8
_VIEWS = (
    "Take the augmentation out, or ask for a number of stored views: `extract_features(..., views=4, augment=...)`."
)

__all__ = ["Grouping", "batches_of", "grouping_for", "refuse_random_inputs"]

logger = logging.get_logger(__name__)

Grouping = Literal["any", "equal lengths", "alone"]


def refuse_random_inputs(source: Source, *, drawn: bool, remedy: str = _VIEWS) -> None:
    """
    Refuse a transform or collator that gives two answers for the same rows: told by drawing the first rows thrice.

    Args:
        source (`Source`):
            The data.
        drawn (`bool`):
            Whether the draws are views, which must be the same each time.
        remedy (`str`, *optional*):
            What to do, for the message.

    Raises:
        ValueError: if draws differ.
    """
    rows = range(min(_ROWS, len(source)))
    with random_numbers_put_back():  # to look at the data is no reason for a run to go another way
        draws = [source.window(rows).collate(np.arange(len(rows))) for _ in range(3)]
    if same(draws[0], draws[1]) and same(draws[0], draws[2]):
        return
    if drawn:
        raise ValueError(
            "`augment` gave two answers for one view although torch, NumPy and `random` were seeded alike: stored "
            "views could not be told from others. Let it draw from the global generator of one of the three."
        )
    raise ValueError(
        "The data set's transform (or `data_collator`) gives two different answers for the same rows: it is random, "
        f"and features of one draw would pass for those of the row. {remedy}"
    )


def grouping_for(model: nn.Module, reader: TapReader, source: Source, first: range) -> Grouping:
    """
    Which rows may share a batch so that their features are those of the row alone.

    The first rows are run together, and the most padded of them by itself. In most models the two agree. Where padding
    leaks into a row (FNet mixes it in, group norms of wav2vec2 count it), only rows of equal length do; where rows
    leak into each other, none.

    Args:
        model (`nn.Module`):
            The model, for its name.
        reader (`TapReader`):
            Runs it.
        source (`Source`):
            The data.
        first (`range`):
            Rows of which at most eight are tried.

    Raises:
        ValueError: if one row alone has two answers.
    """
    window = source.window(range(first.start, min(first.start + _ROWS, first.stop)))
    batch = window.collate(np.arange(len(window)))[0]
    together = reader.read(batch.inputs, batch.mask)
    sizes = None if batch.mask is None else (batch.mask != 0).sum(1)
    place = 0 if sizes is None else int(sizes.argmin())
    single = window.collate(batch.positions[place : place + 1])[0]
    alone = reader.read(single.inputs, single.mask)
    tolerance = 0.1 if reader.low_precision else 2e-3 if reader.device.type == "cpu" else 1e-2
    if all(_close(_row(together[name], place), _row(alone[name], 0), tolerance) for name in alone):
        return "any"
    again = reader.read(single.inputs, single.mask)
    if not all(_close(_row(again[name], 0), _row(alone[name], 0), tolerance) for name in alone):
        raise ValueError(
            f"Two forwards of {type(pretrained(model)).__name__} in evaluation mode gave one row different features: "
            "the model draws at random, as ViTMAE does when it masks patches. Set its random part to a fixed value, "
            "such as `config.mask_ratio=0.0`."
        )
    padded = sizes is not None and len(set(sizes.tolist())) > 1
    grouping: Grouping = "equal lengths" if padded else "alone"
    logger.warning(
        f"The features of {type(pretrained(model)).__name__} depend on "
        + ("how far a row is padded. Batches hold rows of equal length" if padded else "the other rows of the batch. ")
        + (", which is slower." if padded else "Rows are run one by one, which is slower.")
    )
    return grouping


def _row(features: Tensor | list[Tensor], place: int) -> Tensor:
    return features[place].float()


def _close(first: Tensor, second: Tensor, tolerance: float) -> bool:
    first, second = torch.nan_to_num(first), torch.nan_to_num(second)
    return first.shape == second.shape and bool((first - second).norm() <= tolerance * second.norm().clamp(min=1e-6))


def batches_of(window: Any, batch_size: int, grouping: Grouping) -> list[np.ndarray]:
    """The positions of a window in the order in which they are run, cut into batches."""
    order = window.order()
    if grouping == "alone":
        batch_size = 1
    runs = [order]
    if grouping == "equal lengths":
        runs = np.split(order, np.flatnonzero(np.diff(window.lengths[order])) + 1)
    return [run[start : start + batch_size] for run in runs for start in range(0, len(run), batch_size)]
