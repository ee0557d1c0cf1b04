"""What a forecaster takes from a checkpoint of another task, horizon or number of channels."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer.time_series.configuration import KINDS
from hf_transfer.weights.report import TransferEntry, TransferReport


_POSITIONS = "model.encoder.positional_encoder.position_enc"

__all__ = ["check_source", "interpolated", "take_weights"]


def check_source(
    config: Any, name: str | os.PathLike[str], *, channels: int, context_length: int, interpolate: bool
) -> None:
    """
    Refuse a checkpoint that cannot forecast such a series with the weights it has.

    Raises:
        ValueError: as [`load_forecaster`].
    """
    if config.model_type not in KINDS:
        raise ValueError(
            f"`{os.fspath(name)}` holds a {config.model_type}: it has no head for forecasts of this kind. Give a "
            f"checkpoint of {' or '.join(KINDS)}, such as a folder that `pretrain` made."
        )
    if config.loss != "mse":
        raise ValueError(
            f"`{os.fspath(name)}` forecasts a distribution (loss={config.loss!r}), and its head gives parameters in "
            "place of values: errors and observed targets are not defined for it here. Give a checkpoint with "
            "loss='mse', or use the model by the stock `Trainer`."
        )
    per_channel = _layers_by_channel(config)
    if per_channel and channels != config.num_input_channels:
        raise ValueError(
            f"`{os.fspath(name)}` has {config.num_input_channels} channels and {per_channel}, whose weights belong to "
            f"these channels; the series has {channels}. Give a checkpoint whose channels share their weights, or "
            f"select {config.num_input_channels} channels."
        )
    if context_length == config.context_length:
        return
    if config.model_type == "patchtsmixer":
        raise ValueError(
            f"context_length={context_length}, but `{os.fspath(name)}` was made for {config.context_length} rows: its "
            "layers across patches have that width, and nothing of them would be left. Give "
            f"context_length={config.context_length}, or pretrain with the context you need."
        )
    if not interpolate:
        raise ValueError(
            f"context_length={context_length}, but `{os.fspath(name)}` was trained on {config.context_length} rows: "
            f"its positions would be lost. Give context_length={config.context_length}, or "
            "`interpolate_positions=True` to stretch them over the new number of patches."
        )
    if context_length < config.patch_length + config.patch_stride:
        raise ValueError(
            f"context_length={context_length} holds less than two patches of {config.patch_length} rows, the patches "
            f"of `{os.fspath(name)}`: nothing could relate them. Give {config.patch_length + config.patch_stride} "
            "rows or more."
        )


def _layers_by_channel(config: Any) -> str | None:
    """What of a model has its shape from the number of channels."""
    if getattr(config, "mode", None) == "mix_channel":
        return "layers that mix them (mode='mix_channel')"
    if not getattr(config, "share_embedding", True):
        return "an embedding for each (share_embedding=False)"
    return None


def take_weights(model: nn.Module, name: str | os.PathLike[str], *, revision: str) -> TransferReport:
    """
    Copy what a checkpoint has for a forecaster, positions of another context length interpolated.

    Raises:
        ValueError: if anything but the head would stay random.
    """
    from hf_transfer.weights.transfer import transfer_parameters

    report = transfer_parameters(model, name, head=True, resize=(), revision=revision)
    for entry in [entry for entry in report.skipped if entry.name == _POSITIONS and entry.source]:
        from hf_transfer.weights.source import open_source

        source = open_source(name, revision=revision)
        target = model.get_parameter(_POSITIONS)
        # the row of the cls token, which comes first, is none of a patch
        extra = int(getattr(getattr(model, "config", None), "use_cls_token", False))
        table = source.read([entry.source])[entry.source]
        stretched = torch.cat([table[:extra], interpolated(table[extra:], len(target) - extra)])
        with torch.no_grad():
            target.copy_(stretched)
        report.skipped.remove(entry)
        reason = f"positions interpolated: from {len(table) - extra} patches to {len(target) - extra}"
        report.resized.append(entry._replace(reason=reason))
    # what PatchTSMixer's classifiers have between backbone and head, and nothing else has
    new = [entry for entry in report.skipped if entry.part != "head" and not entry.name.startswith("inject_scale.")]
    if new:
        raise ValueError(
            f"`{os.fspath(name)}` lacks {_names(new)}: the backbone would be partly random, and so would every "
            "forecast. Give a whole checkpoint of the model's family."
        )
    return report


def interpolated(positions: Tensor, count: int) -> Tensor:
    """
    A table of positions stretched linearly over another number of patches: the first and last stay.

    Args:
        positions (`Tensor`): `(P, D)`.
        count (`int`): number of rows of the result.

    Example:
        >>> interpolated(torch.tensor([[0.0], [2.0]]), 3).ravel()
        tensor([0., 1., 2.])
    """
    rows = positions.to(torch.float32).T[None]
    stretched = nn.functional.interpolate(rows, size=count, mode="linear", align_corners=True)
    return stretched[0].T.to(positions.dtype)


def _names(entries: list[TransferEntry]) -> str:
    return ", ".join(f"`{entry.name}`" for entry in entries[:3]) + (" and others" if entries[3:] else "")
