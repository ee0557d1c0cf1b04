"""Contexts and targets cut out of one series, as a torch data set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


__all__ = ["Windows", "filled_context"]


class Windows(Dataset[dict[str, Tensor]]):
    """
    Every window of a part of a series: what came before, and what is to be forecast.

    An item is a dict of slices of arrays that all windows share; nothing is copied but contexts with missing values:
    `past_values (L, C)` float32, a missing value filled by the last observed one of the context, or 0 (the mean of
    the training part) where none came before; `past_observed_mask (L, C)` bool; `future_values (H, C)` float32, NaN
    where missing.

    Args:
        scaled (`np.ndarray`):
            `(N, C)` the whole series, scaled, NaN where missing.
        rows (`range`):
            Target rows of the part, of [`SeriesParts`]. All targets lie within, contexts may reach back.
        context_length (`int`):
            Rows `L` of a context.
        prediction_length (`int`):
            Rows `H` of the targets.
        stride (`int`, *optional*, defaults to 1):
            Rows from one window to the next.
        by_channel (`bool`, *optional*, defaults to `False`):
            One channel an item, `(L, 1)` and `(H, 1)`; the channels of a window follow each other.

    Raises:
        ValueError: if no window fits, values are infinite or not `(N, C)`, or rows lie outside.

    Relations:
        [`SeriesProcessor`] scales and gives the same contexts for one forecast.

    Example:
        >>> windows = Windows(np.arange(6.0)[:, None], rows=range(2, 6), context_length=2, prediction_length=2)
        >>> len(windows), windows[1]["past_values"].ravel(), windows[1]["future_values"].ravel()
        (3, tensor([1., 2.]), tensor([3., 4.]))
    """

    def __init__(
        self,
        scaled: np.ndarray,
        *,
        rows: range,
        context_length: int,
        prediction_length: int,
        stride: int = 1,
        by_channel: bool = False,
    ) -> None:
        _check(scaled, rows, context_length, prediction_length, stride)
        self.context_length = context_length
        self.prediction_length = prediction_length
        self.rows = rows
        self.by_channel = by_channel
        self.starts = np.arange(max(rows.start, context_length), rows.stop - prediction_length + 1, stride)
        """First target row of each window."""
        if not len(self.starts):
            raise ValueError(
                f"Rows {rows.start} to {rows.stop} hold no window of {context_length} context and {prediction_length} "
                "target rows: the data set would be empty. Pass shorter lengths or more rows."
            )
        # a copy even of float32: what the caller changes later must not reach the windows
        self.values = torch.from_numpy(np.array(scaled, dtype=np.float32, order="C"))
        """`(N, C)` the series, NaN where missing."""
        self.observed = ~self.values.isnan()
        self._last, self._filled = _carried_forward(self.values)
        # rows with something missing before each row: tells in no time whether a context is whole
        missing = (~self.observed).any(1)
        self._missing_before = np.concatenate([[0], np.cumsum(missing.numpy())])

    @classmethod
    def of_channels(
        cls, scaled: np.ndarray, *, rows: range, context_length: int, prediction_length: int, stride: int = 1
    ) -> Windows:
        """
        The same windows, one channel an item: what a model of one channel, or of any number of them, trains on.

        Args:
            scaled (`np.ndarray`): `(N, C)` as of [`Windows`], and so are the rest.
            rows (`range`): target rows.
            context_length (`int`): rows of a context.
            prediction_length (`int`): rows of the targets.
            stride (`int`, *optional*, defaults to 1): rows from one window to the next.
        """
        return cls(
            scaled,
            rows=rows,
            context_length=context_length,
            prediction_length=prediction_length,
            stride=stride,
            by_channel=True,
        )

    @property
    def channels(self) -> int:
        """Channels of an item."""
        return 1 if self.by_channel else self.values.shape[1]

    def __len__(self) -> int:
        return len(self.starts) * (self.values.shape[1] if self.by_channel else 1)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        number, channel = divmod(index % len(self), self.values.shape[1]) if self.by_channel else (index, None)
        start = int(self.starts[number])
        first, columns = start - self.context_length, slice(None) if channel is None else slice(channel, channel + 1)
        past = self._filled[first:start, columns]
        if self._missing_before[start] > self._missing_before[first]:
            past = torch.where(self._last[first:start, columns] >= first, past, 0.0)
        return {
            "past_values": past,
            "past_observed_mask": self.observed[first:start, columns],
            "future_values": self.values[start : start + self.prediction_length, columns],
        }

    def subsample(self, n: int, seed: int) -> Windows:
        """
        `n` of the windows, drawn at random without repetition, in order of time; the arrays stay shared.

        Args:
            n (`int`): how many; all where there are fewer.
            seed (`int`): of the draw.

        Raises:
            ValueError: if `n` is not positive.
        """
        if n < 1:
            raise ValueError(f"A subsample of {n} windows leaves nothing to train on. Pass 1 or more.")
        drawn = object.__new__(type(self))
        drawn.__dict__.update(self.__dict__)
        chosen = np.random.default_rng(seed).permutation(len(self.starts))[:n]
        drawn.starts = self.starts[np.sort(chosen)]
        return drawn

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        """
        All windows in order, as dicts of `(B, L, C)`, `(B, L, C)` and `(B, H, C)`; several channels always together.

        Args:
            size (`int`): windows at once.
        """
        length, horizon = self.context_length, self.prediction_length
        views = {
            "filled": self._filled.unfold(0, length, 1),
            "last": self._last.unfold(0, length, 1),
            "observed": self.observed.unfold(0, length, 1),
            "future": self.values.unfold(0, horizon, 1),
        }
        for at in range(0, len(self.starts), size):
            starts = torch.from_numpy(self.starts[at : at + size])
            first = starts - length
            past = views["filled"][first]
            if self._missing_before[-1]:
                past = torch.where(views["last"][first] >= first[:, None, None], past, 0.0)
            yield {
                "past_values": past.mT,
                "past_observed_mask": views["observed"][first].mT,
                "future_values": views["future"][starts].mT,
            }


def filled_context(values: Tensor) -> tuple[Tensor, Tensor]:
    """
    A context without holes and where it was observed: NaN becomes the last observed value, 0 where none came before.

    Args:
        values (`Tensor`): `(L, C)`, scaled.

    Example:
        >>> nan = float("nan")
        >>> filled_context(torch.tensor([[nan], [2.0], [nan]]))[0].ravel()
        tensor([0., 2., 2.])
    """
    last, filled = _carried_forward(values)
    return torch.where(last >= 0, filled, 0.0), ~values.isnan()


def _carried_forward(values: Tensor) -> tuple[Tensor, Tensor]:
    """Row of the last observed value up to each row, -1 before the first, and that value (0 before the first)."""
    rows = torch.arange(len(values))[:, None].expand_as(values)
    last = torch.where(values.isnan(), -1, rows).cummax(0).values
    if bool((last == rows).all()):
        return rows, values
    return last, values.gather(0, last.clamp(min=0)).nan_to_num(nan=0.0)


def _check(scaled: np.ndarray, rows: range, context_length: int, prediction_length: int, stride: int) -> None:
    if scaled.ndim != 2:
        raise ValueError(
            f"The values are of shape {scaled.shape}: windows are cut along rows. Pass (N, C), for one channel (N, 1)."
        )
    if np.isinf(scaled).any():
        raise ValueError("Some values are infinite: any loss over them would be. Set them to NaN, which is missing.")
    if min(context_length, prediction_length, stride) < 1:
        raise ValueError(
            f"context_length={context_length}, prediction_length={prediction_length} and stride={stride} were given: "
            "no window could be cut. Pass 1 or more of each."
        )
    if rows.step != 1 or rows.start < 0 or rows.stop > len(scaled):
        raise ValueError(
            f"{rows} are not rows of the {len(scaled)} given: targets would lie outside the series. Pass a part that "
            "`split_by_time` makes of this series."
        )
