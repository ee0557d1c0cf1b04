"""Classifiers of series, PatchTST and PatchTSMixer, new or pretrained, and the rows they learn from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hf_transfer.time_series.configuration import Kind, Size, forecaster_config
from hf_transfer.time_series.processor import SeriesProcessor
from hf_transfer.time_series.windows import filled_context


if TYPE_CHECKING:
    import datasets

    from hf_transfer.weights.report import TransferReport

__all__ = ["SeriesRows", "fitted_processor", "load_classifier", "new_classifier", "series_digest", "stacked"]


def new_classifier(
    kind: Kind,
    *,
    channels: int,
    length: int,
    label_names: Sequence[str],
    size: Size = "small",
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """
    A classifier of series with random weights: one class for a whole series.

    The head reads the mean of PatchTST's patches, or the largest of PatchTSMixer's, of all channels side by side.

    Args:
        kind (`str`):
            `"patchtst"` or `"patchtsmixer"`.
        channels (`int`):
            Number of channels.
        length (`int`):
            Rows of a series.
        label_names (`Sequence[str]`):
            Names of the classes by number.
        size (`str`, *optional*, defaults to `"small"`):
            As for [`new_forecaster`].
        overrides (`Mapping[str, Any]`, *optional*):
            Likewise.

    Returns:
        `PatchTSTForClassification` or `PatchTSMixerForTimeSeriesClassification`.

    Raises:
        ValueError: as [`new_forecaster`]; and if there are fewer than two classes.

    Relations:
        [`load_classifier`] starts from a pretrained model.

    Example:
        >>> model = new_classifier("patchtst", channels=2, length=64, label_names=["wave", "noise"])
        >>> model.config.num_targets, model.config.id2label[1]
        (2, 'noise')

    Paper: Nie et al., "A Time Series is Worth 64 Words: Long-term Forecasting with Transformers", ICLR 2023, https://huggingface.co/papers/2211.14730
    """
    options = {"pooling_type": "mean", **(overrides or {})} if kind == "patchtst" else overrides
    config = forecaster_config(
        kind, channels=channels, context_length=length, prediction_length=1, size=size, overrides=options
    )
    return _built(config, label_names)


def load_classifier(
    name_or_path: str | os.PathLike[str],
    *,
    channels: int,
    length: int,
    label_names: Sequence[str],
    interpolate_positions: bool = False,
    revision: str = "main",
) -> tuple[Any, TransferReport]:
    """
    A classifier of series that starts from a pretrained model: everything below the head.

    The checkpoint may have been trained to fill in masked patches, to forecast or to classify, and on another number
    of channels.

    Args:
        name_or_path (`str` or path):
            A folder or Hub id with a PatchTST or PatchTSMixer.
        channels, length, label_names:
            As for [`new_classifier`].
        interpolate_positions (`bool`, *optional*, defaults to `False`):
            As for [`load_forecaster`]: take PatchTST to series of another length than its context.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit on the Hub.

    Returns:
        The model, and a [`TransferReport`] of which tensors came from the checkpoint and which are new.

    Raises:
        ValueError: as [`load_forecaster`]; and if there are fewer than two classes.
        OSError: if there is no such checkpoint.

    Example:
        >>> import tempfile
        >>> from hf_transfer.time_series.models import pretraining_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pretraining_model("patchtst", channels=1, context_length=64).save_pretrained(folder)
        ...     model, report = load_classifier(folder, channels=2, length=64, label_names=["wave", "noise"])
        >>> sorted({entry.part for entry in report.skipped})
        ['head']
    """
    from transformers import AutoConfig

    from hf_transfer.time_series.starting import check_source, take_weights

    config: Any = AutoConfig.from_pretrained(name_or_path, revision=revision)
    check_source(config, name_or_path, channels=channels, context_length=length, interpolate=interpolate_positions)
    kept = {name: value for name, value in config.to_dict().items() if name in type(config).__annotations__}
    kept |= {"num_input_channels": channels, "context_length": length, "unmasked_channel_indices": None}
    if config.model_type == "patchtst":
        kept |= {"do_mask_input": None, "pooling_type": config.pooling_type or "mean"}
    kept.pop("model_type", None)
    model = _built(type(config)(**kept), label_names)
    return model, take_weights(model, name_or_path, revision=revision)


def _built(config: Any, label_names: Sequence[str]) -> Any:
    import transformers

    if len(label_names) < 2:
        raise ValueError(
            f"There are {len(label_names)} classes: nothing is to be told apart. Give labels of two kinds or more."
        )
    config.num_targets = len(label_names)
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: number for number, name in enumerate(label_names)}
    kinds = {
        "patchtst": transformers.PatchTSTForClassification,
        "patchtsmixer": transformers.PatchTSMixerForTimeSeriesClassification,
    }
    return kinds[config.model_type](config)


def fitted_processor(split: datasets.Dataset) -> SeriesProcessor:
    """
    The scaling of labelled series, by mean and deviation of each channel over all observed values of a split.

    A channel that is the same everywhere is only shifted.

    Example:
        >>> import datasets
        >>> processor = fitted_processor(datasets.Dataset.from_dict({"values": [[[1.0], [3.0]]], "label": [0]}))
        >>> processor.mean, processor.std
        ([2.0], [1.0])
    """
    values = stacked(split).reshape(-1, stacked(split).shape[-1]).astype(np.float64)
    observed = ~np.isnan(values)
    count = np.maximum(observed.sum(0), 1)
    mean = np.where(observed, values, 0.0).sum(0) / count
    std = np.sqrt(np.where(observed, (values - mean) ** 2, 0.0).sum(0) / count)
    return SeriesProcessor(
        channels=[f"channel_{number}" for number in range(values.shape[1])],
        mean=mean.tolist(),
        std=np.where(std > 0, std, 1.0).tolist(),
        context_length=stacked(split).shape[1],
        prediction_length=0,
    )


def stacked(split: datasets.Dataset) -> np.ndarray:
    """`(N, T, C)` float32: the series of a split, NaN where a value is missing."""
    return np.asarray(split.with_format("numpy")["values"][:], dtype=np.float32)


class SeriesRows(Dataset):
    """
    Labelled series as a model of series takes them.

    Args:
        split (`datasets.Dataset`): columns `values` and `label`, of [`read_labelled_series`].
        processor ([`SeriesProcessor`]): scales them.

    An item is `past_values` `(T, C)` float32, `past_observed_mask` `(T, C)` bool and `target_values`, an int.

    Example:
        >>> import datasets
        >>> split = datasets.Dataset.from_dict({"values": [[[1.0], [3.0]]], "label": [0]})
        >>> rows = SeriesRows(split, fitted_processor(split))
        >>> rows[0]["past_values"].ravel(), rows[0]["target_values"]
        (tensor([-1.,  1.]), 0)
    """

    def __init__(self, split: datasets.Dataset, processor: SeriesProcessor):
        scaled = processor.scale(stacked(split).astype(np.float64)).astype(np.float32)
        filled = [filled_context(torch.from_numpy(one)) for one in scaled]
        self.values = torch.stack([values for values, _ in filled])
        self.observed = torch.stack([observed for _, observed in filled])
        self.labels = [int(label) for label in split["label"]]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Tensor | int]:
        return {
            "past_values": self.values[row],
            "past_observed_mask": self.observed[row],
            "target_values": self.labels[row],
        }


def series_digest(split: datasets.Dataset) -> str:
    """A digest of the values and the labels of a split."""
    values = np.ascontiguousarray(stacked(split))
    return hashlib.sha256(values.tobytes() + np.asarray(split["label"], dtype=np.int64).tobytes()).hexdigest()[:16]
