"""Scale and shift of frozen weights (meta-transfer learning): put in, folded back into ordinary weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hf_transfer.anatomy import anatomy


_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

__all__ = ["add_scale_shift", "fold_scale_shift", "is_scale_shift", "scale_shift_state", "without_scale_shift"]


class _Scale(nn.Module):
    def __init__(self, weight: Tensor):
        super().__init__()
        # a kernel of several numbers is scaled as one; in a linear layer all weights of an output are
        shape = (*weight.shape[:2], *[1] * (weight.dim() - 2)) if weight.dim() > 2 else (len(weight), 1)
        self.scale = nn.Parameter(weight.new_ones(shape))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


class _Shift(nn.Module):
    def __init__(self, bias: Tensor):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(bias))

    def forward(self, bias: Tensor) -> Tensor:
        return bias + self.shift


def add_scale_shift(model: nn.Module) -> nn.Module:
    r"""
    Meta-transfer learning's way to change a frozen backbone (MTL, SS): a learned scale of its weights and a learned
    shift of its biases.

    $$ W' = s \odot W, \qquad b' = b + t, \qquad s = 1, \; t = 0 \text{ at first} $$

    for every linear layer and convolution outside the head. The layers' own weights are frozen; `s` and `t` train.
    They are parametrizations of PyTorch: the model computes with $W'$ wherever it did with $W$.

    PEFT has no such tuner: its IA3 scales activations and shifts nothing.

    Args:
        model (`nn.Module`):
            A classifier of `transformers`, changed in place: everything but `s`, `t` and the head is frozen. To train
            it outside [`MetaTrainer`] call [`fold_scale_shift`] before saving: the names of the weights are those of
            the parametrizations until then.

    Returns:
        `nn.Module`: the same model.

    Shape:
        - $s$ of a linear layer $(D_{out}, 1)$, of a convolution $(D_{out}, D_{in}, 1, ...)$.
        - $t$ as the bias; a layer without one has no shift.

    Deviations from the paper:
        The paper has convolutions of several numbers only. A scale for each input and output of a linear layer would
        be as large as the layer: here it has one for each output.

    Raises:
        ValueError: if the model has an adapter, scale and shift already, or no such layer.

    Relations:
        [`add_adapter`] puts LoRA in, which changes the directions of the weights too. `MetaTrainer(algorithm="anil",
        parameters="scale_shift")` is meta-transfer learning.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = add_scale_shift(BertForSequenceClassification(config))
        >>> query = model.bert.encoder.layer[0].attention.self.query
        >>> query.parametrizations.weight[0].scale.shape, query.parametrizations.bias[0].shift.shape
        (torch.Size([8, 1]), torch.Size([8]))

    Paper: Sun et al., "Meta-Transfer Learning for Few-Shot Learning", CVPR 2019, https://huggingface.co/papers/1812.02391
    """
    if hasattr(model, "peft_config"):
        raise ValueError(
            "The model has an adapter of PEFT: scale and shift of weights that an adapter changes too could be folded "
            "into neither. Merge the adapter with `merge_adapter(model)` first, or leave one of the two out."
        )
    if _parametrized(model):
        raise ValueError(
            "The model has scale and shift already: a second pair would learn the same again. Use it as it is, or "
            "call `fold_scale_shift(model)` first."
        )
    found = anatomy(model)
    heads = tuple(f"{name}." for name in found.modules("head"))
    layers = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, _LAYERS) and not f"{name}.".startswith(heads)
    ]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no linear layer or convolution below its head: there is nothing to scale. "
            'Choose other parameters, such as `parameters="all"`.'
        )
    trained = set(found.parts()["head"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _Scale(layer.weight))
        if layer.bias is not None:
            parametrize.register_parametrization(layer, "bias", _Shift(layer.bias))
    return model


def fold_scale_shift(model: nn.Module) -> nn.Module:
    """
    Fold scale and shift into the weights they change: an ordinary model that computes the same, and all of it trains.

    Args:
        model (`nn.Module`): with scale and shift, changed in place.

    Returns:
        `nn.Module`: the same model.

    Raises:
        ValueError: if there is no scale and shift.
    """
    layers = _parametrized(model)
    if not layers:
        raise ValueError(
            "The model has no scale and shift: there is nothing to fold. Call `add_scale_shift(model)` before the "
            "training."
        )
    for layer in layers:
        _own_class(layer)
        for name in list(_lists(layer)):
            parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    return model.requires_grad_(True)


@contextmanager
def without_scale_shift(model: nn.Module, *, folded: bool) -> Iterator[None]:
    """
    The model under the names it had, for a while: with the weights that scale and shift make, or with its own.

    The parameters are the same objects afterwards, also after an error, so that an optimizer goes on with them. A
    model without scale and shift is left alone.
    """
    taken: list[tuple[Any, str, nn.Module, Tensor]] = []
    try:
        for layer in _parametrized(model):
            _own_class(layer)
            for name in list(_lists(layer)):
                effective, change = getattr(layer, name).detach(), _lists(layer)[name][0]
                parametrize.remove_parametrizations(layer, name, leave_parametrized=False)
                parameter = getattr(layer, name)
                taken.append((layer, name, change, parameter.data))
                if folded:
                    parameter.data = effective
        yield
    finally:
        for layer, name, change, own in taken:
            if folded:
                getattr(layer, name).data = own
            parametrize.register_parametrization(layer, name, change)


def scale_shift_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of scale and shift by name; empty without."""
    return {name: value.detach() for name, value in model.named_parameters() if is_scale_shift(name)}


def is_scale_shift(name: str) -> bool:
    """Whether a parameter of this name is a scale or a shift."""
    return ".parametrizations." in f".{name}" and name.endswith((".0.scale", ".0.shift"))


def _parametrized(model: nn.Module) -> list[Any]:
    return [
        module
        for module in model.modules()
        if parametrize.is_parametrized(module)
        and any(isinstance(change[0], _Scale | _Shift) for change in _lists(module).values())
    ]


def _own_class(layer: Any) -> None:
    """
    Give a layer its class for itself. PyTorch (2.13) makes a class for each parametrized layer, but deep copies share
    it: taking the parametrizations off one would break the other.
    """
    shared = type(layer)
    own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    layer.__class__ = type(shared.__name__, shared.__bases__, own)


def _lists(layer: Any) -> Any:
    return layer.parametrizations
