"""A linear probe as the head of a model: standardisation folded in, classes by name, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from hf_transfer._blocks import bare_name
from hf_transfer.anatomy import anatomy
from hf_transfer.features.head_logits import head_logits
from hf_transfer.features.probes.head_names import name_classes, order_of
from hf_transfer.features.probes.labelled_rows import read_features
from hf_transfer.weights.slots import base_of, refuse_wrapped


if TYPE_CHECKING:
    from hf_transfer.features.probes.probe import Probe


logger = logging.get_logger(__name__)

_TOLERANCE = 1e-4  # of the largest logit
_HALF = (torch.float16, torch.bfloat16)

__all__ = ["fold", "linear_head"]


def fold(probe: Probe, model: nn.Module, *, head: str | None, check: bool, features: Any) -> None:
    """Write a probe into the head of a model; see [`Probe.fold_into`]."""
    weight, bias = probe.linear()
    if probe.column != "features":
        raise ValueError(
            f"The probe was fitted to the column `{probe.column}`, the head of the model reads another layer: its "
            "logits would not be the probe's. Fit it to the column `features`, which is the input of the head."
        )
    refuse_wrapped(model, doing="folding a probe")
    layer = linear_head(model, head)
    transposed = isinstance(layer, Conv1D)
    outputs, width = reversed(layer.weight.shape) if transposed else layer.weight.shape[:2]
    config = getattr(base_of(model), "config", None)
    if width != weight.shape[1]:
        raise ValueError(
            f"The head of the model takes features of width {width}, the probe has {weight.shape[1]}: it was fitted "
            "to those of another model. Extract the features with this one."
        )
    if layer.bias is None and bias.any():
        raise ValueError(
            "The head of the model has no bias, and the probe has a constant term: without it other classes would be "
            "answered. Fit the probe without: `fit_probe(..., intercept=False)`."
        )
    order = order_of(probe, outputs, config)
    whole, constants = np.zeros((outputs, width)), np.full(outputs, bias.min())
    whole[order], constants[order] = weight, bias
    matrix = torch.from_numpy(whole.T if transposed else whole).reshape(layer.weight.shape)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    with torch.no_grad():
        layer.weight.copy_(matrix)
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(constants))
    if check:
        try:
            _compare(probe, layer, order, probe.sample if features is None else features)
        except BaseException:
            with torch.no_grad():
                for name, parameter in layer.named_parameters():
                    parameter.copy_(before[name])
            raise
    name_classes(probe, outputs, config)


def linear_head(model: nn.Module, head: str | None) -> Any:
    """
    The layer that returns the logits, whose weights a probe can replace.

    Args:
        model (`nn.Module`): with a head.
        head (`str`, *optional*): its name; found by itself otherwise.

    Raises:
        ValueError: if it is not one linear layer with real weights, or an adapter would leave it out.
    """
    parts = anatomy(model, head=head)
    own = f"{bare_name(parts.head)}."
    others = [name for name in parts.parts()["head"] if not bare_name(name).startswith(own)]
    if others:
        raise ValueError(
            f"The logits are made by more than one layer (`{parts.head}`, and {others[0]}): one of them alone is not "
            "the probe. Keep the probe beside the model, `Probe.save`, or load a model with one head."
        )
    layer: Any = model.get_submodule(parts.head)
    inner = dict(layer.named_children())
    copies = dict(inner["modules_to_save"].named_children()) if "modules_to_save" in inner else {}
    adapted = base_of(model) is not model or copies or "base_layer" in inner
    if adapted and ".modules_to_save." not in parts.head:
        active = [name for name in copies if name in getattr(layer, "active_adapters", ())]
        if not active:
            raise ValueError(
                f"The head `{parts.head}` of the PEFT model is not in `modules_to_save`: files of the adapter would "
                "leave the probe out, and an adapter on the head would add to it. Name the head there, "
                "`LoraConfig(..., modules_to_save=[...])`, or fold the probe into `model.merge_and_unload()`."
            )
        layer = copies[active[0]]
    is_linear = isinstance(layer, (nn.Linear, Conv1D)) or (
        isinstance(layer, (nn.Conv1d, nn.Conv2d)) and set(layer.kernel_size) == {1} and layer.groups == 1
    )
    if not is_linear or not layer.weight.is_floating_point():
        raise ValueError(
            f"The head `{parts.head}` is a {type(layer).__name__}, no linear layer or 1x1 convolution with real "
            "weights: a probe cannot take its place. Load the model unquantised, or name its last layer, `head=`."
        )
    return layer


@torch.no_grad()
def _compare(probe: Probe, layer: Any, order: np.ndarray, features: Any) -> None:
    rows = read_features(features)[0]
    if not len(rows):
        return
    wanted = probe.logits(rows)
    dtype = layer.weight.dtype
    inputs = torch.from_numpy(rows.astype(np.float32)).to(layer.weight.device, dtype)
    found = head_logits(layer, inputs).double().cpu().numpy()[:, order]
    error, largest = float(np.abs(found - wanted).max()), float(np.abs(wanted).max())
    allowed = _TOLERANCE * largest
    if dtype in _HALF:
        weight, bias = probe.linear()
        # features, weights and sum are rounded: at worst all in one direction
        allowed = 4 * torch.finfo(dtype).eps * float((np.abs(rows) @ np.abs(weight).T + np.abs(bias)).max())
        logger.warning(
            f"The head of the model is in {str(dtype).removeprefix('torch.')}: its logits differ from the probe's by "
            f"up to {error:.2g} of {largest:.2g}. Load the model in float32 for 1e-4."
        )
    if not error <= allowed:
        raise RuntimeError(
            f"The head with the probe's weights returns logits that differ by {error:.2g} from the probe's (at most "
            f"{largest:.2g}): it would predict something else, and the old weights were put back. Extract the "
            "features in float32, and fit the probe with `standardize=True` and stronger regularisation."
        )
