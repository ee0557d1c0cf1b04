"""Finding the head of a model: the layer that turns features into logits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from ._blocks import Piece, ancestors, bare_modules


__all__ = ["find_head", "input_width"]

# PatchTSMixer scales its output with this module; one of its layers has two outputs by construction, whatever the labels
_NO_HEADS = frozenset({"inject_scale"})


class _Layer(NamedTuple):
    name: str
    outputs: int
    place: int  # index of its piece in forward order


def input_width(model: nn.Module, head: str) -> int:
    """Width of the features: of the input of the head's first linear layer or convolution."""
    module = model.get_submodule(head)
    for _, layer in bare_modules(head, module):
        if (widths := _widths(layer)) is not None:
            return widths[0]
    raise ValueError(
        f"the head `{head}` ({type(module).__name__}) holds no linear layer or convolution, so the width of the features "
        "cannot be read off it. Name the layer that returns the logits: anatomy(model, head=...)."
    )


def find_head(model: nn.Module, pieces: Sequence[Piece]) -> str:
    """
    The one layer outside the blocks that returns the logits, or the forecast.

    A layer outside the base model is preferred, then one after the last block. Of several in one classification head the
    last is taken; of several side by side in a list, the module that owns the list.
    """
    owner_name, owner = _pretrained(model)
    wanted = _label_count(owner)
    forecasts = type(owner).__name__.endswith("ForPrediction")  # transformers' name for forecasters: they have no labels
    layers = list(_layers(model, pieces))
    found = layers if forecasts else [layer for layer in layers if layer.outputs == wanted]
    base = ".".join(filter(None, [owner_name, getattr(owner, "base_model_prefix", "")])) + "."
    last_block = max((place for place, piece in enumerate(pieces) if piece.is_block), default=-1)
    found = [layer for layer in found if not layer.name.startswith(base)] or found
    found = [layer for layer in found if layer.place > last_block] or found
    if not found:
        raise ValueError(
            f"{type(owner).__name__} has no linear layer or convolution with {wanted} outputs (its number of labels) outside its "
            f"blocks{_listing(layers)}; without the head there is no place to read features and no end of the backbone. "
            "Load the model with AutoModelFor...Classification.from_pretrained(...), or name the layer: anatomy(model, head=...)."
        )
    if len({layer.place for layer in found}) > 1:
        raise ValueError(
            f"{type(owner).__name__} has several layers that could be its head{_listing(found)}; features are read at one of "
            f'them, and guessing would train the wrong one. Name it: anatomy(model, head="{found[0].name}").'
        )
    names = [layer.name for layer in found]
    if len(names) == 1:
        return names[0]
    shared = os.path.commonprefix([ancestors(name) for name in names])[-1]
    if isinstance(model.get_submodule(shared), nn.ModuleList):
        return shared.rpartition(".")[0]
    return shared if forecasts else names[-1]


def _label_count(owner: nn.Module) -> int | None:
    config: Any = getattr(owner, "config", None)
    # the time-series classifiers size their heads by `num_targets`; their `num_labels` is an unused default
    return getattr(config, "num_targets", None) or getattr(config, "num_labels", None)


def _pretrained(model: nn.Module) -> tuple[str, nn.Module]:
    """The outermost model of `transformers`, below PEFT, DDP or `torch.compile`; the model itself if there is none."""
    for name, module in model.named_modules():
        if isinstance(module, PreTrainedModel):
            return name, module
    return "", model


def _layers(model: nn.Module, pieces: Sequence[Piece]) -> Iterator[_Layer]:
    for place, piece in enumerate(pieces):
        if piece.is_block or not piece.is_module or piece.names[0].rpartition(".")[2] in _NO_HEADS:
            continue
        for name, module in bare_modules(piece.names[0], model.get_submodule(piece.names[0])):
            if (widths := _widths(module)) is not None:
                yield _Layer(name, widths[1], place)


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer or convolution, also of a quantised or an adapted one."""
    for inputs, outputs in (("in_features", "out_features"), ("in_channels", "out_channels"), ("nx", "nf")):
        widths = getattr(module, inputs, None), getattr(module, outputs, None)
        if isinstance(widths[0], int) and isinstance(widths[1], int):
            return widths[0], widths[1]
    return None


def _listing(layers: Sequence[_Layer]) -> str:
    if not layers:
        return ""
    shown = ", ".join(f"{layer.name} ({layer.outputs} outputs)" for layer in layers[:8])
    return f": {shown}" + (f" and {len(layers) - 8} more" if len(layers) > 8 else "")
