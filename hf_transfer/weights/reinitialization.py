"""`reinitialize_blocks`: forget the top of a pretrained model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer._blocks import ancestors
from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.weights.slots import has_adapters, refuse_wrapped


__all__ = ["draw_anew", "reinitialize_blocks"]

_FLAG = "_is_hf_initialized"  # transformers 5 leaves alone what carries it


def reinitialize_blocks(model: nn.Module, count: int, *, neck: bool = True) -> list[str]:
    """
    Draw the top blocks of a model anew, and what lies between them and the head, with the model's own initialiser.

    The upper layers of a pretrained encoder are specialised in its pretraining task; with few examples a fresh start
    for some of them trains more steadily. Statistics of BatchNorm start anew too. The head is left alone. Random
    numbers are drawn from torch's global generator: `torch.manual_seed` before the call decides. Nothing is changed if
    anything is raised.

    Args:
        model (`nn.Module`):
            Any classifier of `transformers`, before training.
        count (`int`):
            Number of blocks from the top, as [`anatomy`] counts them. The paper tries 1 to 6 of BERT's 24 (6 of 12 in
            the base size); 0 takes the neck alone.
        neck (`bool`, *optional*, defaults to `True`):
            Whether to include the neck: the pooler, a final norm, the dense layer of a classification head.

    Returns:
        `list[str]`: names of the parameters and buffers that were drawn anew, in forward order.

    Deviations from the paper:
        The paper knows BERT, whose neck is the pooler; the final norm of other models is reset with it.

    Raises:
        ValueError: if there are fewer blocks, or nothing is asked for; if a parameter to draw anew is frozen, or the
            model carries adapters: what is random and does not train only harms; if the model has no initialiser for
            one of them.
        TypeError: if the model is wrapped by DDP or compiled.

    Relations:
        [`transfer_parameters`] with `blocks=N` is the same seen from below: it keeps N blocks of a checkpoint.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
        >>> names = reinitialize_blocks(BertForSequenceClassification(config), 1)
        >>> names[0], names[-1], len(names)
        ('bert.encoder.layer.1.attention.self.query.weight', 'bert.pooler.dense.bias', 18)

    Paper: Zhang et al., "Revisiting Few-sample BERT Fine-tuning", ICLR 2021, https://huggingface.co/papers/2006.05987
    """
    refuse_wrapped(model, doing="a new initialisation")
    if has_adapters(model):
        raise ValueError(
            "The model carries adapters of PEFT: its base layers are frozen, and random ones would stay random. "
            "Fine-tune in full after `reinitialize_blocks`, or keep the pretrained blocks under the adapters."
        )
    found = anatomy(model)
    parts = _chosen_parts(found, count, neck)
    names = {part: found.parts()[part] for part in parts}
    wanted: dict[str, Any] = {name: model.get_parameter(name) for part in parts for name in names[part]}
    _refuse_frozen(wanted)
    modules: dict[str, nn.Module] = {}
    for part in parts:
        inside = dict(pair for root in found.modules(part) for pair in _below(model, root))
        for name, module in inside.items():
            statistics = {f"{name}.{key}": buffer for key, buffer in _statistics(module)}
            names[part] += statistics
            wanted.update(statistics)
        modules.update(inside)
    # A parameter directly in a module of several parts is drawn by that module.
    holders = {name.rpartition(".")[0] for name in wanted} - modules.keys()
    modules.update((name, model.get_submodule(name)) for name in holders)
    _redraw(model, wanted, modules)
    return [name for part in parts for name in names[part]]


def draw_anew(model: nn.Module, names: Collection[str]) -> list[str]:
    """
    Draw some parameters, and running statistics, anew with the model's own initialiser, and nothing else.

    Random numbers are drawn from torch's global generator. Other buffers are left as they are.

    Args:
        model (`nn.Module`): any model of `transformers`.
        names (`Collection[str]`): of the tensors, such as what [`missing_weights`] found.

    Returns:
        `list[str]`: names of those that were drawn, in the order of the model's modules.

    Raises:
        ValueError: if the model has no initialiser for one of them.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> draw_anew(BertForSequenceClassification(config), {"classifier.weight", "classifier.bias"})
        ['classifier.weight', 'classifier.bias']
    """
    wanted: dict[str, Any] = {}
    modules: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        for key, tensor in (*module.named_parameters(recurse=False), *_statistics(module)):
            path = f"{name}.{key}" if name else key
            if path in names:
                wanted[path] = tensor
                modules[name] = module
    _redraw(model, wanted, modules)
    return list(wanted)


def _chosen_parts(found: Anatomy, count: int, neck: bool) -> list[str]:
    total = len(found.blocks)
    if not 0 <= count <= total:
        raise ValueError(
            f"count={count}, but the model has {total} blocks: there is nothing more to forget. Give 0 to {total}; a "
            "model with all blocks new is trained from scratch."
        )
    parts = [f"block.{number}" for number in range(total - count, total)] + (["neck"] if neck else [])
    if not any(found.parts()[part] for part in parts):
        raise ValueError(
            f"count={count} and neck={neck} select nothing of this model: it would start as it is. Give a positive "
            "`count`."
        )
    return parts


def _refuse_frozen(wanted: dict[str, nn.Parameter]) -> None:
    frozen = [name for name, parameter in wanted.items() if not parameter.requires_grad]
    if frozen:
        raise ValueError(
            f"{len(frozen)} parameters to draw anew are frozen, {frozen[0]} among them: random and never trained, "
            "they would only destroy what comes from below. Set `requires_grad` on them, or freeze with "
            "`FreezeBackbone` / `UnfreezingSchedule`, which act when training starts."
        )


def _below(model: nn.Module, root: str) -> Iterator[tuple[str, nn.Module]]:
    """A module and all below it, children first, as `nn.Module.apply` goes."""
    for name, _ in model.get_submodule(root).named_children():
        yield from _below(model, f"{root}.{name}" if root else name)
    yield root, model.get_submodule(root)


def _statistics(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        if isinstance(buffer := module._buffers.get(key), Tensor):
            yield key, buffer


def _redraw(model: nn.Module, wanted: dict[str, Any], modules: dict[str, nn.Module]) -> None:
    """Initialise modules so that the wanted tensors change, and no other; none if one of them has no initialiser."""
    touched = _unique(t for module in modules.values() for t in (*module.parameters(), *module.buffers()))
    before = [(tensor, tensor.detach().clone()) for tensor in touched]
    flagged = [tensor for tensor in touched if getattr(tensor, _FLAG, False)]
    kept = {id(tensor) for tensor in touched} - {id(tensor) for tensor in wanted.values()}
    try:
        for tensor in flagged:
            setattr(tensor, _FLAG, False)
        with torch.no_grad():
            for tensor in wanted.values():
                tensor.fill_(torch.nan if tensor.is_floating_point() else -1)  # shows what no initialiser reaches
            for name, module in modules.items():
                _initialize(model, name, module)
        left = [name for name, tensor in wanted.items() if _untouched(tensor)]
        if left:
            raise ValueError(
                f"{type(model).__name__} has no initialiser for {', '.join(left[:3])}: they would keep what they "
                "learned beside layers that are random. Choose fewer blocks, pass neck=False, or give the model an "
                "`_init_weights` that knows them."
            )
    except BaseException:
        kept = {id(tensor) for tensor in touched}
        raise
    finally:
        with torch.no_grad():
            for tensor, value in before:
                if id(tensor) in kept:
                    tensor.copy_(value)
        for tensor in flagged:
            setattr(tensor, _FLAG, True)


def _initialize(model: nn.Module, name: str, module: nn.Module) -> None:
    """Initialise one module as the model it belongs to does; a plain module of torch as torch does."""
    above = (model.get_submodule(holder) for holder in reversed([*ancestors(name), name]))
    owner: Any = next((holder for holder in above if hasattr(holder, "_init_weights")), None)
    if owner is not None:
        owner._init_weights(module)
    reset: Any = getattr(module, "reset_parameters", None)
    if callable(reset) and any(map(_untouched, module.parameters(recurse=False))):
        reset()
    reset = getattr(module, "reset_running_stats", None)
    if callable(reset) and any(_untouched(buffer) for _, buffer in _statistics(module)):
        reset()


def _untouched(tensor: Tensor) -> bool:
    return bool(tensor.isnan().any() if tensor.is_floating_point() else (tensor == -1).all())


def _unique(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())
