"""Finding the head of a model: the layer that turns features into logits."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from hf_transfer._blocks import Piece, ancestors, bare_modules
from hf_transfer.language_models import is_language_model, output_layer, pretrained_part
from hf_transfer.series_models import series_model


__all__ = ["find_head", "input_width", "output_width", "possible_heads"]

# PatchTSMixer scales its output with it; one of its layers has two outputs by construction, whatever the labels
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
        f"the head `{head}` ({type(module).__name__}) holds no linear layer or convolution; the width of the features "
        "cannot be read off it. Name the layer that returns the logits: anatomy(model, head=...)."
    )


def output_width(model: nn.Module, head: str) -> int:
    """
    Number of outputs: of labels; of tokens for a language model and of targets for a model of time series, whose
    `num_labels` is an unused default. Of a forecaster that of its head's first layer.
    """
    config: Any = getattr(model, "config", None)
    series = series_model(model)
    if series is not None and series.in_pieces:
        layers = (widths for _, layer in bare_modules(head, model.get_submodule(head)) if (widths := _widths(layer)))
        return next(layers)[1]
    if is_language_model(model) and (widths := _widths(model.get_submodule(head))) is not None:
        return widths[1]
    return int(config.num_labels if series is None else config.num_targets)


def find_head(model: nn.Module, pieces: Sequence[Piece]) -> str:
    """
    The one module outside the blocks that returns the logits, or the forecast.

    Raises:
        ValueError: if there are several, or none.
    """
    heads = possible_heads(model, pieces)
    if len(heads) == 1:
        return heads[0]
    _, owner = pretrained_part(model)
    if heads:
        raise ValueError(
            f"{type(owner).__name__} has several layers that could be its head: {', '.join(heads)}; features are read "
            f'at one of them, and a guess could read the wrong ones. Name it: anatomy(model, head="{heads[0]}").'
        )
    layers = [f"{layer.name} ({layer.outputs} outputs)" for layer in _layers(model, pieces)]
    listing = f" (found {', '.join(layers[:8])}{', ...' if layers[8:] else ''})" if layers else ""
    raise ValueError(
        f"{type(owner).__name__} has no layer with {_label_count(owner)} outputs, its number of labels, outside its "
        f"blocks{listing}; without a head there is no place to read features. Load the model with "
        "AutoModelFor...Classification.from_pretrained(...), or name the layer: anatomy(model, head=...)."
    )


def possible_heads(model: nn.Module, pieces: Sequence[Piece]) -> list[str]:
    """
    The linear layers and convolutions with as many outputs as there are labels; for a forecaster, or a model that
    fills in its input, any. For a language model the layer that it calls its output embeddings.

    Those outside the base model are preferred, then those after the last block. Of several in one classification head
    the last is taken; of several side by side in a list (parameters of a distribution) the module that owns the list.
    """
    owner_name, owner = pretrained_part(model)
    if is_language_model(owner):
        layer = output_layer(owner)
        return [name for name, module in model.named_modules() if module is layer][:1]
    series = series_model(owner)
    forecasts = series is not None and series.in_pieces  # no labels: the width of the head is a horizon or a patch
    wanted = _label_count(owner)
    found = [layer for layer in _layers(model, pieces) if forecasts or layer.outputs == wanted]
    base = ".".join(filter(None, [owner_name, getattr(owner, "base_model_prefix", "")])) + "."
    last_block = max((place for place, piece in enumerate(pieces) if piece.is_block), default=-1)
    found = [layer for layer in found if not layer.name.startswith(base)] or found
    found = [layer for layer in found if layer.place > last_block] or found
    heads: list[str] = []
    for _, layers in itertools.groupby(found, key=lambda layer: layer.place):
        names = [layer.name for layer in layers]
        shared = os.path.commonprefix([[*ancestors(name), name] for name in names])[-1]
        if isinstance(model.get_submodule(shared), nn.ModuleList):
            heads.append(shared.rpartition(".")[0])
        else:
            heads.append(shared if forecasts else names[-1])
    return heads


def _label_count(owner: nn.Module) -> int | None:
    config: Any = getattr(owner, "config", None)
    # the time-series classifiers size their heads by `num_targets`; their `num_labels` is an unused default
    return getattr(config, "num_targets", None) or getattr(config, "num_labels", None)


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
