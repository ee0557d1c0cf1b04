"""Forecasters: PatchTST and PatchTSMixer of `transformers`, new or from a pretrained checkpoint."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_transfer.time_series.configuration import KINDS, Kind, Size, forecaster_config, patches


if TYPE_CHECKING:
    from hf_transfer.weights.report import TransferReport

__all__ = ["KINDS", "load_forecaster", "new_forecaster", "observed_mask_name", "pretraining_model"]


def new_forecaster(
    kind: Kind,
    *,
    channels: int,
    context_length: int,
    prediction_length: int,
    size: Size = "small",
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """
    A forecaster with random weights: it maps the last rows of a series to the next ones, channel by channel.

    PatchTST cuts the context into patches, embeds each, runs a transformer encoder over them and maps all patches of a
    channel, flattened, to its forecast by one linear head. PatchTSMixer has layers of MLPs in place of attention. Both
    standardise every context by its own mean and deviation and put these back into the forecast; the weights are
    shared by all channels.

    Args:
        kind (`str`):
            `"patchtst"` or `"patchtsmixer"`.
        channels (`int`):
            Number of channels of the series.
        context_length (`int`):
            Rows that the model sees.
        prediction_length (`int`):
            Rows that it forecasts, the horizon.
        size (`str`, *optional*, defaults to `"small"`):
            `"small"` has 3 layers of width 16; `"base"` width 128 (64 for PatchTSMixer, in 8 layers).
        overrides (`Mapping[str, Any]`, *optional*):
            Fields of `PatchTSTConfig` or `PatchTSMixerConfig` to set otherwise, such as
            `{"patch_length": 24, "patch_stride": 12}`.

    Returns:
        `PatchTSTForPrediction` or `PatchTSMixerForPrediction`.

    Deviations from the paper:
        PatchTST's authors normalise after each sublayer and learn the positions; here the norms come before, as
        `transformers` has it by default, and positions are sines. They repeat the last value to make one more patch.

    Raises:
        ValueError: if kind or size is unknown, a length is not positive, the context is shorter than two patches, or
            an override is unknown, out of range or rules out training by masked squared error.

    Relations:
        [`load_forecaster`] starts from a pretrained one. [`patches`] says how the context is cut by default.

    Example:
        >>> model = new_forecaster("patchtst", channels=7, context_length=336, prediction_length=96)
        >>> model.config.patch_length, model.config.patch_stride, model.config.d_model
        (16, 8, 16)
        >>> model.head.projection.in_features  # 41 patches of width 16
        656

    Paper: Nie et al., "A Time Series is Worth 64 Words: Long-term Forecasting with Transformers", ICLR 2023, https://huggingface.co/papers/2211.14730
    """
    config = forecaster_config(
        kind,
        channels=channels,
        context_length=context_length,
        prediction_length=prediction_length,
        size=size,
        overrides=overrides,
    )
    return forecaster_class(kind)(config)


def pretraining_model(
    kind: Kind,
    *,
    channels: int,
    context_length: int,
    mask_ratio: float = 0.4,
    size: Size = "small",
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """
    A model with random weights that learns to fill in masked patches of a series: the self-supervised task.

    Args:
        kind, channels, context_length, size, overrides:
            As for [`new_forecaster`].
        mask_ratio (`float`, *optional*, defaults to 0.4):
            Share of the patches that are set to zero, in (0, 1); 0.4 is that of the paper.

    Returns:
        `PatchTSTForPretraining` or `PatchTSMixerForPretraining`.

    Raises:
        ValueError: as [`new_forecaster`]; and if patches overlap, or no patch or every patch would be masked.

    Example:
        >>> model = pretraining_model("patchtst", channels=1, context_length=96)
        >>> model.config.patch_length, model.config.patch_stride, model.config.random_mask_ratio
        (16, 16, 0.4)

    Paper: Nie et al., "A Time Series is Worth 64 Words: Long-term Forecasting with Transformers", ICLR 2023, https://huggingface.co/papers/2211.14730
    """
    import transformers

    overrides = dict(overrides or {})
    if "patch_length" not in overrides:
        overrides["patch_length"] = patches(context_length, overlapping=False)[0]
    overrides.setdefault("patch_stride", overrides["patch_length"])
    config = forecaster_config(
        kind,
        channels=channels,
        context_length=context_length,
        prediction_length=1,
        size=size,
        overrides={"random_mask_ratio": mask_ratio, **overrides},
    )
    if config.patch_stride < config.patch_length:
        raise ValueError(
            f"patch_stride={config.patch_stride} with patch_length={config.patch_length}: patches overlap, and a "
            "masked one can be copied from its neighbours, which teaches nothing. Give `patch_stride` the length of "
            "a patch."
        )
    count = (context_length - config.patch_length) // config.patch_stride + 1
    masked = count - int(count * (1 - config.random_mask_ratio)) if 0 < config.random_mask_ratio < 1 else 0
    if not 0 < masked < count:
        raise ValueError(
            f"A mask ratio of {config.random_mask_ratio} hides {masked} of {count} patches: there must be one to fill "
            "in and one to do it from. Give a ratio such as 0.4, or a longer context."
        )
    kinds = {"patchtst": "PatchTSTForPretraining", "patchtsmixer": "PatchTSMixerForPretraining"}
    return getattr(transformers, kinds[kind])(config)


def load_forecaster(
    name_or_path: str | os.PathLike[str],
    *,
    channels: int,
    context_length: int,
    prediction_length: int,
    interpolate_positions: bool = False,
    revision: str = "main",
) -> tuple[Any, TransferReport]:
    """
    A forecaster that starts from a pretrained one: everything below the head, and the head where it fits.

    The checkpoint may have been trained to fill in masked patches, to forecast or to classify; on another number of
    channels; for another horizon. Whatever has another horizon or another task gets a new head.

    Args:
        name_or_path (`str` or path):
            A folder or Hub id with a PatchTST or PatchTSMixer.
        channels (`int`):
            Number of channels of the series to forecast.
        context_length (`int`):
            Rows that the model sees; that of the checkpoint, which its positions, or its layers across patches, were
            trained for.
        prediction_length (`int`):
            Rows to forecast.
        interpolate_positions (`bool`, *optional*, defaults to `False`):
            Take PatchTST to another context length: its table of positions is stretched linearly over the new number
            of patches. The head is new then.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit on the Hub.

    Returns:
        The model, and a [`TransferReport`] of which tensors came from the checkpoint and which are new.

    Raises:
        ValueError: if the checkpoint is of another family, has another context length, or layers that mix a number of
            channels other than `channels`; if it forecasts a distribution.
        OSError: if there is no such checkpoint.

    Relations:
        [`new_forecaster`] starts from scratch. [`fit_forecast_head`] fits a new head in closed form.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = pretraining_model("patchtst", channels=1, context_length=96)
        ...     source.save_pretrained(folder)
        ...     model, report = load_forecaster(folder, channels=7, context_length=96, prediction_length=24)
        >>> sorted({entry.part for entry in report.skipped})
        ['head']
    """
    from transformers import AutoConfig

    from hf_transfer.time_series.starting import check_source, take_weights

    config: Any = AutoConfig.from_pretrained(name_or_path, revision=revision)
    check_source(
        config, name_or_path, channels=channels, context_length=context_length, interpolate=interpolate_positions
    )
    new = {"num_input_channels": channels, "context_length": context_length, "prediction_length": prediction_length}
    kept = {name: value for name, value in config.to_dict().items() if name in type(config).__annotations__}
    kept |= new | {"loss": "mse", "unmasked_channel_indices": None}
    if config.model_type == "patchtst":
        kept |= {"do_mask_input": None, "share_projection": True}
        if not _architecture(config).endswith("ForPrediction"):
            kept["pooling_type"] = None  # the task of the checkpoint had no use for it, or another
    else:
        kept["prediction_channel_indices"] = None
    kept.pop("model_type", None)
    model = forecaster_class(config.model_type)(type(config)(**kept))
    return model, take_weights(model, name_or_path, revision=revision)


def forecaster_class(kind: Kind) -> Any:
    """The class of `transformers` that forecasts."""
    import transformers

    return {
        "patchtst": transformers.PatchTSTForPrediction,
        "patchtsmixer": transformers.PatchTSMixerForPrediction,
    }[kind]


def observed_mask_name(model: Any) -> str:
    """What a forecaster calls the mask of its observed inputs: `past_observed_mask` or `observed_mask`."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = inspect.signature(type(inner).forward).parameters
    return next((name for name in ("past_observed_mask", "observed_mask") if name in names), "past_observed_mask")


def _architecture(config: Any) -> str:
    return next(iter(config.architectures or ()), "")
