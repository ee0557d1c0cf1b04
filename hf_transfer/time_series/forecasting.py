"""`forecast`: the next rows of a series, in its own units, from its last ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_transfer.data.columns import listed
from hf_transfer.modes import at_rest
from hf_transfer.time_series.models import observed_mask_name


if TYPE_CHECKING:
    from hf_transfer.time_series.processor import SeriesProcessor

__all__ = ["forecast"]


def forecast(model: Any, processor: SeriesProcessor, values: Any, *, batch_size: int = 64) -> np.ndarray:
    """
    Forecast the rows that follow the given ones, in the units of the series.

    Args:
        model (`PatchTSTForPrediction` or `PatchTSMixerForPrediction`):
            A trained forecaster, also under PEFT.
        processor ([`SeriesProcessor`]):
            What it was trained with, of `SeriesProcessor.from_pretrained(folder)`.
        values (array, tensor, `pandas.DataFrame` or list):
            `(T, C)`, the last rows of a series in its own units, NaN where missing, with `T` of at least the context
            length; the last rows are the context. Columns of a `DataFrame` are chosen by the names of the channels. Or
            several such: `(B, T, C)`, or a list.
        batch_size (`int`, *optional*, defaults to 64):
            Series at once.

    Returns:
        `np.ndarray`: `(H, C)`, or `(B, H, C)` where several were given; float64.

    Degenerate cases:
        A channel that was not observed anywhere in the context is forecast from its mean in the training rows.

    Raises:
        ValueError: if there are too few rows, other channels than trained on, infinite values or none at all; or if
            the processor was made for another model.

    Example:
        >>> from hf_transfer.time_series.models import new_forecaster
        >>> from hf_transfer.time_series.processor import SeriesProcessor
        >>> model = new_forecaster("patchtst", channels=2, context_length=16, prediction_length=4)
        >>> lengths = {"context_length": 16, "prediction_length": 4}
        >>> processor = SeriesProcessor(channels=["a", "b"], mean=[0, 9], std=[1, 3], **lengths)
        >>> forecast(model, processor, np.zeros((20, 2))).shape
        (4, 2)
    """
    _check_pair(model, processor)
    several = _are_several(values)
    series = [_channels_of(one, processor) for one in (values if several else [values])]
    if not series:
        raise ValueError("There is no series to forecast: the list is empty. Pass values (T, C), or a list of such.")
    mask, device = observed_mask_name(model), next(model.parameters()).device
    found = []
    with at_rest(model), torch.no_grad():
        for start in range(0, len(series), batch_size):
            inputs = processor(series[start : start + batch_size], return_tensors="pt")
            past = inputs["past_values"].to(device)
            output = model(past_values=past, **{mask: inputs["past_observed_mask"].to(device)})
            found.append(processor.unscale(output["prediction_outputs"].double().cpu().numpy()))
    forecasts = np.concatenate(found)
    return forecasts if several else forecasts[0]


def _are_several(values: Any) -> bool:
    if isinstance(values, Sequence) and not isinstance(values, str):
        return not len(values) or hasattr(values[0], "columns") or np.ndim(values[0]) >= 2
    return not hasattr(values, "columns") and np.ndim(values) >= 3


def _channels_of(values: Any, processor: SeriesProcessor) -> Any:
    """The channels of a `DataFrame`, by name; anything else as it is."""
    if not hasattr(values, "columns"):
        return values
    missing = [channel for channel in processor.channels if channel not in values.columns]
    if missing:
        raise ValueError(
            f"The table has columns {listed([str(name) for name in values.columns])} and lacks {listed(missing)}, "
            "which the model forecasts: it would be given another channel in its place. Rename the columns, or pass "
            "an array whose columns are in the order of training."
        )
    return values[processor.channels].to_numpy(dtype=np.float64)


def _check_pair(model: Any, processor: SeriesProcessor) -> None:
    config = model.config
    pairs = {
        "num_input_channels": len(processor.channels),
        "context_length": processor.context_length,
        "prediction_length": processor.prediction_length,
    }
    for name, made_for in pairs.items():
        if getattr(config, name) != made_for:
            raise ValueError(
                f"The model has {name}={getattr(config, name)}, the processor was made for {made_for}: values would "
                "be scaled for another model. Load both from one folder: `SeriesProcessor.from_pretrained(folder)`."
            )
