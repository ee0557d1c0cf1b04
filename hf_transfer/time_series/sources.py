"""Windows of several source series, of any number of channels, for one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch.utils.data import ConcatDataset

from hf_transfer.multitask.sampler import TaskSampler
from hf_transfer.time_series.processor import SeriesProcessor
from hf_transfer.time_series.series import Series
from hf_transfer.time_series.splits import SeriesParts, split_by_time
from hf_transfer.time_series.windows import Windows


SourceMix = Literal["proportional", "sqrt"]

__all__ = ["Source", "SourceMix", "SourceWindows", "sources_of"]


class SourceWindows(ConcatDataset):
    """
    The windows of several series one after the other, and a sampler that draws them in shares.

    Args:
        parts (`Sequence[Windows]`): of each series, all of the same lengths and number of channels.
        mix (`str`, *optional*, defaults to `"proportional"`):
            Shares of the series in a batch: as their numbers of windows, or as the square roots of these (`"sqrt"`),
            which keeps a long series with many channels from crowding out a short one.

    Example:
        >>> windows = Windows(np.zeros((9, 2)), rows=range(2, 9), context_length=2, prediction_length=1)
        >>> len(SourceWindows([windows, windows]))
        14
    """

    def __init__(self, parts: Sequence[Windows], mix: SourceMix = "proportional"):
        if mix not in ("proportional", "sqrt"):
            raise ValueError(
                f"mix={mix!r} is no way to mix series: the share of each would be unknown. Give 'proportional' or "
                "'sqrt'."
            )
        super().__init__(list(parts))
        self.mix: SourceMix = mix

    def sampler(self, *, batch_size: int, ranks: int, seed: int) -> TaskSampler:
        """Row numbers in batches that hold each series in its share; see [`TaskSampler`]."""
        numbers = np.repeat(np.arange(len(self.datasets)), [len(part) for part in self.datasets])  # type: ignore[arg-type]
        return TaskSampler(numbers, mix=self.mix, batch_size=batch_size, ranks=ranks, seed=seed)


class Source:
    """
    One source series: its parts in time, and windows scaled by its training rows.

    Args:
        series ([`Series`]): in its own units.
        context_length, prediction_length (`int`): rows of a window.
        split (`dict`): `fractions` or `lengths`, as for [`split_by_time`].
        one_channel (`bool`): whether an item holds one channel.
        masked (`bool`): whether windows are for filling in, and have no targets to speak of.
        stride (`int`): rows from one training window to the next.
    """

    def __init__(
        self,
        series: Series,
        *,
        context_length: int,
        prediction_length: int,
        split: dict[str, Any],
        one_channel: bool,
        masked: bool,
        stride: int,
    ):
        lengths = {"context_length": context_length, "prediction_length": prediction_length}
        self.series = series
        self.parts: SeriesParts = split_by_time(series, **lengths, **split)
        self.processor = SeriesProcessor.fitted(series, self.parts.train, **lengths)
        # Rows after the evaluation part are not even scaled.
        scaled = self.processor.scale(series.values[: self.parts.eval.stop])
        held_out = self.parts.eval
        if masked and len(held_out) >= context_length + prediction_length:
            # whole contexts are rebuilt: none of the rows that were trained on, where there is room
            held_out = range(held_out.start + context_length, held_out.stop)
        shape = {**lengths, "by_channel": one_channel}
        self.train = Windows(scaled, rows=self.parts.train, stride=stride, **shape)
        self.eval = Windows(scaled, rows=held_out, **shape)

    def facts(self) -> dict[str, Any]:
        """What a reader of the model wants to know of this source."""
        return {
            "name": self.series.name,
            "channels": list(self.series.channels),
            "rows": len(self.series),
            "training_rows": [self.parts.known.start, self.parts.known.stop],
            "eval_rows": [self.parts.eval.start, self.parts.eval.stop],
            "first_date": str(self.series.dates[self.parts.known.start]),
            "last_date": str(self.series.dates[self.parts.eval.stop - 1]),
            "training_windows": len(self.train),
            "missing_share": float(np.isnan(self.series.values[: self.parts.eval.stop]).mean()),
        }


def sources_of(series: Series | Sequence[Series], **options: Any) -> list[Source]:
    """
    Each series as a [`Source`].

    Raises:
        ValueError: if there is none; and as [`split_by_time`] and [`SeriesProcessor`] do.
    """
    given = [series] if isinstance(series, Series) else list(series)
    if not given:
        raise ValueError(
            "There is no series to pretrain on: the weights would stay random. Pass one or several, such as "
            "`read_series(path)[0]`."
        )
    return [Source(one, **options) for one in given]
