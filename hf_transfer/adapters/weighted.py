"""The weighted sum of adapters as PEFT makes it, and what is missing from it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer._blocks import bare_name


__all__ = ["add_mean_copies", "add_weighted", "kept_copies", "weighted_mean"]


def weighted_mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    r"""
    $\sum_i w_i t_i / \sum_i w_i$, worked out in float64; of whole numbers, such as counts of batches, the largest.

    Example:
        >>> weighted_mean([torch.tensor([1.0]), torch.tensor([4.0])], [1.0, 0.5])
        tensor([2.])
    """
    if not tensors[0].is_floating_point():
        return torch.stack(list(tensors)).amax(0)
    total = sum(weights)
    parts = [tensor.detach().double() * (weight / total) for tensor, weight in zip(tensors, weights, strict=True)]
    return torch.stack(parts).sum(0).to(tensors[0].dtype)


def kept_copies(model: Any) -> dict[str, Any]:
    """The modules of which adapters keep copies, by their names in the base model: PEFT's `modules_to_save`."""
    from peft.utils.other import ModulesToSaveWrapper

    return {
        bare_name(name): module
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    }


def add_weighted(
    model: Any,
    adapters: Sequence[str],
    weights: Sequence[float],
    name: str,
    method: str,
    options: Mapping[str, Any],
) -> None:
    """PEFT's `add_weighted_adapter` for LoRA and IA3, with the biases and the ranks that it leaves out."""
    ia3 = not hasattr(model.peft_config[adapters[0]], "r")
    extra = {} if ia3 else {"combination_type": method, **options}
    with _plain_config(model, adapters[0]), _copies_unchecked(model):
        model.base_model.add_weighted_adapter(list(adapters), list(weights), name, **extra)
    if not ia3:
        _complete_lora(model, adapters, weights, name)


def add_mean_copies(
    model: Any, adapters: Sequence[str], weights: Sequence[float], name: str, *, taken: Mapping[str, str]
) -> None:
    """
    Give an adapter copies of what others keep in full: the weighted mean, or one's own where `taken` names it.

    An adapter without a copy counts with the module of the base model, which is what runs when it is active.
    """
    saved: set[str] = set()
    for path, wrapper in kept_copies(model).items():
        kept = wrapper.modules_to_save
        if not any(adapter in kept for adapter in adapters):
            continue
        parts = [kept[adapter] if adapter in kept else wrapper.original_module for adapter in adapters]
        if name not in kept:
            wrapper.update(name)
        if path in taken:
            kept[name] = copy.deepcopy(parts[list(adapters).index(taken[path])])
        else:
            made = copy.deepcopy(parts[0])
            states = [part.state_dict() for part in parts]
            made.load_state_dict({key: weighted_mean([state[key] for state in states], weights) for key in states[0]})
            kept[name] = made
        kept[name].requires_grad_(False)
        saved.add(path)
    config = model.peft_config[name]
    if saved:
        stated = [model.peft_config[adapter].modules_to_save or [] for adapter in adapters]
        config.modules_to_save = list(dict.fromkeys(one for names in stated for one in names))


@contextmanager
def _plain_config(model: Any, first: str) -> Iterator[None]:
    """
    PEFT (0.21) makes the config of the sum from that of the first adapter. From PiSSA it would take the
    initialisation, which changes the base model's weights once more; from rsLoRA the root of the rank as a factor.
    """
    config = model.peft_config[first]
    plain = {"init_lora_weights": True, "use_rslora": False}
    known = {field.name for field in dataclasses.fields(config)}
    model.peft_config[first] = dataclasses.replace(config, **{key: plain[key] for key in plain.keys() & known})
    try:
        yield
    finally:
        model.peft_config[first] = config


@contextmanager
def _copies_unchecked(model: Any) -> Iterator[None]:
    """
    PEFT (0.21) refuses adapters that keep copies of the same module, as adapters with heads do. Its check sees none
    meanwhile; all else that it checks it checks.
    """
    tuner = model.base_model
    check = tuner._check_add_weighted_adapter
    tables = [wrapper.modules_to_save._modules for wrapper in kept_copies(model).values()]

    def without_copies(**arguments: Any) -> Any:
        before = [dict(table) for table in tables]
        try:
            for table in tables:
                table.clear()
            return check(**arguments)
        finally:
            for table, kept in zip(tables, before, strict=True):
                table.update(kept)

    tuner._check_add_weighted_adapter = without_copies
    try:
        yield
    finally:
        del tuner._check_add_weighted_adapter


def _complete_lora(model: Any, adapters: Sequence[str], weights: Sequence[float], name: str) -> None:
    from peft.tuners.lora import LoraLayer

    config = model.peft_config[name]
    for path, module in model.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        layer: Any = module
        table: Any = layer.lora_A if name in layer.lora_A else layer.lora_embedding_A
        if name not in table:
            continue
        factor = table[name].weight if isinstance(table[name], nn.Module) else table[name]
        for one in layer.parameters():
            # views of a decomposition, which after saving would be summed in another order
            one.data = one.data.contiguous()
        if factor.shape[0] != layer.r[name]:
            # a rank per layer, which the saved adapter opens with; its scale stays 1
            layer.r[name] = layer.lora_alpha[name] = factor.shape[0]
            config.rank_pattern[bare_name(path)] = config.alpha_pattern[bare_name(path)] = factor.shape[0]
        if name in layer.lora_B and getattr(layer.lora_B[name], "bias", None) is not None:
            parts = [
                layer.lora_B[adapter].bias.detach() * (weight * layer.scaling[adapter])
                for adapter, weight in zip(adapters, weights, strict=True)
                if adapter in layer.lora_B
            ]
            layer.lora_B[name].bias.data = torch.stack(parts).sum(0)
