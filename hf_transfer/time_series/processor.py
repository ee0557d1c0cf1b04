"""The scaling and the shape of windows that a forecaster was trained with, saved beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, FeatureExtractionMixin

from hf_transfer.data.columns import listed
from hf_transfer.files import whole_file
from hf_transfer.time_series.series import ROWS, Series, step_name
from hf_transfer.time_series.windows import filled_context


__all__ = ["SeriesProcessor"]

Values = TypeVar("Values", np.ndarray, Tensor)


class SeriesProcessor(FeatureExtractionMixin):
    r"""
    Standardises the channels of a series and makes contexts of raw values, as the model was trained with.

    With the mean $\mu_c$ and the standard deviation $\sigma_c$ of channel $c$ over the observed values of the training
    rows, a value $v$ becomes $(v - \mu_c) / \sigma_c$.

    It is saved as `preprocessor_config.json` beside the model, and pushed with it as the `processing_class` of a
    trainer.

    Args:
        channels (`Sequence[str]`): names, in order.
        mean (`Sequence[float]`): `(C,)`, in the units of the series.
        std (`Sequence[float]`): `(C,)`, in the units of the series, positive.
        context_length (`int`): rows `L` of a context.
        prediction_length (`int`): rows `H` of a forecast.
        step (`str`, *optional*): time between rows in words, as [`step_name`] gives.
        feature_extractor_type (`str`, *optional*): what the saved file says of the class; not used.
        processor_class (`str`, *optional*): likewise.

    Raises:
        ValueError: if numbers of channels, means and standard deviations differ, or a deviation is not positive.

    Relations:
        [`Windows`] makes the contexts of training out of what [`SeriesProcessor.scale`] returns.

    Example:
        >>> dates = np.arange(4).astype("datetime64[D]").astype("datetime64[ns]")
        >>> series = Series("shop", dates, np.array([[1.0], [3.0], [1.0], [99.0]]), ("a",), np.timedelta64(1, "D"))
        >>> processor = SeriesProcessor.fitted(series, range(1, 2), context_length=1, prediction_length=1)
        >>> processor.scale(series.values).ravel(), processor.mean
        (array([-1.,  1., -1., 97.]), [2.0])
        >>> processor(np.array([[3.0]]))["past_values"].shape
        (1, 1, 1)
    """

    model_input_names = ["past_values", "past_observed_mask"]

    def __init__(
        self,
        *,
        channels: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        context_length: int,
        prediction_length: int,
        step: str | None = None,
        feature_extractor_type: str | None = None,
        processor_class: str | None = None,
    ) -> None:
        super().__init__()
        if not len(channels) == len(mean) == len(std) or not len(channels):
            raise ValueError(
                f"{len(channels)} channels with {len(mean)} means and {len(std)} standard deviations were given: "
                "each channel is scaled by its own. Pass one of each for every channel."
            )
        if not all(np.isfinite(mean)) or not all(0 < deviation < np.inf for deviation in std):
            raise ValueError(
                f"Means {list(mean)} and standard deviations {list(std)} were given: dividing by them would not give "
                "numbers. Pass finite means and positive deviations."
            )
        self.channels = [str(channel) for channel in channels]
        self.mean = [float(value) for value in mean]
        self.std = [float(value) for value in std]
        self.context_length = int(context_length)
        self.prediction_length = int(prediction_length)
        self.step = step

    @classmethod
    def fitted(cls, series: Series, rows: range, *, context_length: int, prediction_length: int) -> SeriesProcessor:
        """
        Of the training rows of a series: their targets, and the context before the first of them.

        Args:
            series ([`Series`]): in its own units.
            rows (`range`): target rows of training, `parts.train`. No row after them is looked at.
            context_length (`int`): rows of a context; as many rows before the targets belong to training.
            prediction_length (`int`): rows of a forecast.

        Raises:
            ValueError: if a channel is constant or never observed in these rows.
        """
        known = series.values[max(rows.start - context_length, 0) : rows.stop]
        counts = (~np.isnan(known)).sum(0)
        _refuse(series, counts == 0, len(known), "has no value", "there is nothing to fit its scale on")
        low, high = np.nanmin(known, axis=0), np.nanmax(known, axis=0)
        _refuse(series, low == high, len(known), "is constant", "it cannot be scaled, and nothing is learned of it")
        return cls(
            channels=series.channels,
            mean=np.nanmean(known, axis=0).tolist(),
            std=np.nanstd(known, axis=0).tolist(),
            context_length=context_length,
            prediction_length=prediction_length,
            step=step_name(series),
        )

    def scale(self, values: Values) -> Values:
        """
        Standardised values; missing ones stay NaN.

        Args:
            values (`np.ndarray` or `Tensor`): `(..., C)` in the units of the series.

        Raises:
            ValueError: if there are other channels than fitted.
        """
        mean, std = self._moments(values)
        return (values - mean) / std

    def unscale(self, values: Values) -> Values:
        """
        Values in the units of the series, of standardised ones.

        Args:
            values (`np.ndarray` or `Tensor`): `(..., C)`, such as a forecast.

        Raises:
            ValueError: if there are other channels than fitted.
        """
        mean, std = self._moments(values)
        return values * std + mean

    def check(self, series: Series) -> None:
        """
        Refuse a series that this was not fitted on the like of.

        Args:
            series ([`Series`]): whose values are to be scaled.

        Raises:
            ValueError: if channels differ in number, names or order, or rows are another time apart.
        """
        if list(series.channels) != self.channels:
            same = sorted(series.channels) == sorted(self.channels)
            raise ValueError(
                f"Series `{series.name}` has {len(series.channels)} channels, {listed(series.channels)}, where the "
                f"processor was fitted on {len(self.channels)}, {listed(self.channels)}"
                f"{', in another order' if same else ''}: values would be scaled by the mean of another channel. Read "
                f"the series with channels={self.channels}, or fit a processor on it."
            )
        if self.step not in (None, ROWS, step_name(series)) and series.calendar != ROWS:
            raise ValueError(
                f"Series `{series.name}` has a row every {step_name(series)}, the processor was fitted on rows every "
                f"{self.step}: a context would span another time. Resample the series, or fit a processor on it."
            )

    def __call__(self, values: Any, return_tensors: str | None = None) -> BatchFeature:
        """
        What the model takes, of raw values.

        Args:
            values (array, tensor or list):
                `(T, C)` in the units of the series with NaN where missing, or several such. The last `L` rows are
                the context.
            return_tensors (`str`, *optional*):
                `"pt"` for torch, `"np"` or None for NumPy.

        Shape:
            - `past_values`: `(B, L, C)` float32, scaled, holes filled as in [`Windows`].
            - `past_observed_mask`: `(B, L, C)` bool.

        Raises:
            ValueError: if there are fewer rows than a context, other channels, or an infinite value.
        """
        single = not isinstance(values, list | tuple) and np.ndim(values) < 3
        if isinstance(values, list | tuple) and len(values) and np.ndim(values[0]) < 2:
            single = True
        contexts = [self._context(one) for one in ([values] if single else values)]
        data = {
            "past_values": torch.stack([filled for filled, _ in contexts]).numpy(),
            "past_observed_mask": torch.stack([observed for _, observed in contexts]).numpy(),
        }
        return BatchFeature(data, tensor_type=return_tensors)

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """
        Write the file whole or not at all.

        Args:
            json_file_path (`str` or `os.PathLike`): the file.
        """
        with whole_file(json_file_path) as unfinished:
            unfinished.write_text(self.to_json_string(), encoding="utf-8")

    def _context(self, values: Any) -> tuple[Tensor, Tensor]:
        array = np.asarray(values, dtype=np.float64)
        if array.ndim == 1 and len(self.channels) == 1:
            array = array[:, None]
        if array.ndim != 2 or len(array) < self.context_length:
            raise ValueError(
                f"Values of shape {array.shape} were given where a context has {self.context_length} rows of "
                f"{len(self.channels)} channels: the model would look at rows that are not there. Pass (T, C) with T "
                f"of at least {self.context_length}, NaN where a value is missing."
            )
        if np.isinf(array).any():
            raise ValueError("The values hold an infinite one: the forecast would be. Pass NaN for what is missing.")
        context = self.scale(array)[-self.context_length :]
        return filled_context(torch.from_numpy(context.astype(np.float32)))

    def _moments(self, values: Any) -> tuple[Any, Any]:
        if values.ndim < 1 or values.shape[-1] != len(self.channels):
            raise ValueError(
                f"Values of shape {tuple(values.shape)} were given where {len(self.channels)} channels "
                f"({listed(self.channels)}) were fitted: values would be scaled by the mean of another channel. Pass "
                "(..., C), channels last and in this order."
            )
        if isinstance(values, Tensor):
            return values.new_tensor(self.mean), values.new_tensor(self.std)
        return np.asarray(self.mean), np.asarray(self.std)


def _refuse(series: Series, bad: np.ndarray, rows: int, what: str, why: str) -> None:
    if bad.any():
        names = [channel for channel, is_bad in zip(series.channels, bad, strict=True) if is_bad]
        kept = [channel for channel in series.channels if channel not in names]
        way_out = f"Pass channels={kept} to leave it out, or train" if kept else "Train"
        raise ValueError(
            f"Channel {listed(names)} of `{series.name}` {what} in the {rows} training rows: {why}. {way_out} on more "
            "rows."
        )
