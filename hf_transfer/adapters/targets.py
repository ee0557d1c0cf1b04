"""Which layers of a model an adapter goes to: the linear layers and convolutions inside its blocks, by kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from torch import nn

from hf_transfer._blocks import OBJECTIVES, bare_children, bare_name, unwrapped
from hf_transfer.anatomy import Anatomy


Kind = Literal["attention", "mlp", "convolution", "norm"]
KINDS: tuple[Kind, ...] = ("attention", "mlp", "convolution", "norm")
WORDS = ("all", *KINDS)
_MANY = 8  # names in a list, above which a reader is better served by a pattern

__all__ = [
    "KINDS",
    "WORDS",
    "Kind",
    "Layer",
    "chosen",
    "keys_and_values",
    "layers",
    "matched",
    "narrowing",
    "readable_names",
    "shortest_names",
]

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
# Projections that stand in a block without an attention module around them.
_PROJECTIONS = re.compile(r"^(?:[qkvo]_proj|[qkv]_lin|qkv(?:_proj)?|query_key_value|Wqkv|in_proj_qkv\w*)$")
_KEYS_AND_VALUES = re.compile(
    r"^(?:key|value|[kv](?:_proj|_lin|_head)?|W[kv]|linear_[kv]|(?:key|value)_proj|c_attn|qkv(?:_proj)?|kv(?:_proj)?"
    r"|query_key_value|Wqkv|key_value\w*)$"
)
_ROUTER = re.compile(r"(?:^|_)(?:router|gate)$")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# What `peft.tuners.tuners_utils._check_lora_target_modules_mamba` (0.21) refuses: state-space layers read the weight
# of `out_proj` themselves, so that an adapter around it would never run.
_STATE_SPACE = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
# Layers that are never called because the model reads their weight (`JambaMambaMixer`, `WavLMAttention`, transformers
# 5.23): an adapter around them would never run
_READ_DIRECTLY = {
    "jamba": frozenset({"dt_proj"}),
    "wavlm": frozenset({"k_proj", "out_proj", "q_proj", "v_proj"}),
}
_LINEAR = re.compile(r"Linear")


class Layer(NamedTuple):
    """
    A layer that an adapter could go to.

    Args:
        name (`str`): as `named_modules()` of the model without adapters gives it.
        kind (`str`): `"attention"`, `"mlp"`, `"convolution"` or `"norm"`.
        type (`str`): `"Linear"`, `"Conv1D"` (that of GPT-2), `"Conv1d"`, `"Conv2d"`, `"Conv3d"`, `"Norm"`; a grouped
            convolution is a `"GroupedConv2d"`.
        inputs, outputs (`int`): widths; of a norm both are that of its weight.
        part (`str`): part of the anatomy it lies in.
    """

    name: str
    kind: Kind
    type: str
    inputs: int
    outputs: int
    part: str


def layers(model: nn.Module, found: Anatomy) -> list[Layer]:
    """
    All layers to which adapters go by default, in forward order: every linear layer and every convolution in a block
    or between two blocks, and every norm outside the head.

    Left out are the head, embeddings, routers of a mixture of experts, layers whose weight is computed from others
    (weight norm), and expert weights that are bare parameters, for which PEFT has `target_parameters`.

    Args:
        model (`nn.Module`): the model, without PEFT around it; it may already hold adapters.
        found (`Anatomy`): its anatomy.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from hf_transfer import anatomy
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> bert = BertForSequenceClassification(config)
        >>> for layer in layers(bert, anatomy(bert))[1:3]:
        ...     print(layer.kind, layer.name)
        attention bert.encoder.layer.0.attention.self.query
        attention bert.encoder.layer.0.attention.self.key
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    experts = _numbers(getattr(model, "config", None), _EXPERTS)
    result: dict[str, Layer] = {}
    for part in found.parts():
        if part == "head":
            continue
        for root in found.modules(part):
            for name, module, types in _leaves(root, model.get_submodule(root)):
                made = _layer(name, module, types, part, root=bare_name(root))
                if made is None or (made.kind != "norm" and not part.startswith("block.")):
                    continue
                key = made.name.rpartition(".")[2]
                if _ROUTER.search(key) and made.kind != "norm" and made.outputs in {1, *experts}:
                    continue
                if key in _READ_DIRECTLY.get(model_type or "", ()):
                    continue
                if model_type in _STATE_SPACE and key in {"out_proj", "conv1d"} and "attn" not in made.name:
                    continue
                result.setdefault(made.name, made)
    return list(result.values())


def chosen(candidates: Sequence[Layer], words: Iterable[str], *, scaling: bool = False) -> list[str]:
    """
    Names of the layers of the kinds that `words` name; with `"all"` of every kind.

    Args:
        candidates (`Sequence[Layer]`): what can be adapted.
        words (`Iterable[str]`): of `WORDS`.
        scaling (`bool`, *optional*, defaults to `False`): for a method that scales activations (IA3): of attention
            only keys and values, of an MLP only the layers that lead back to the width of the block.
    """
    words = set(words)
    kinds = set(KINDS) if "all" in words else words
    names = {layer.name for layer in candidates if layer.kind in kinds}
    if scaling:
        convolutions = {layer.name for layer in candidates if layer.kind in ("convolution", "norm")}
        names &= {*keys_and_values(candidates), *narrowing(candidates), *convolutions}
    return [layer.name for layer in candidates if layer.name in names]


def narrowing(candidates: Iterable[Layer]) -> list[str]:
    """
    Layers of an MLP that lead back to the width of the block: where IA3 scales the input. Of a block whose MLP has
    none (its layers are all as wide), the last.
    """
    chosen: list[str] = []
    by_part: dict[str, list[Layer]] = {}
    for layer in candidates:
        if layer.kind == "mlp":
            by_part.setdefault(layer.part, []).append(layer)
    for inside in by_part.values():
        narrow = [layer.name for layer in inside if layer.inputs > layer.outputs]
        chosen += narrow or [inside[-1].name]
    return chosen


def keys_and_values(candidates: Iterable[Layer]) -> list[str]:
    """Projections that return keys or values, alone or together with queries; of other attention all of its layers."""
    attention = [layer for layer in candidates if layer.kind == "attention"]
    known = [layer for layer in attention if _KEYS_AND_VALUES.match(layer.name.rpartition(".")[2])]
    covered = {layer.part for layer in known}
    return [layer.name for layer in attention if layer in known or layer.part not in covered]


def shortest_names(wanted: Iterable[str], others: Iterable[str]) -> list[str]:
    """
    The shortest endings that PEFT matches with all of `wanted` and with none of `others`, sorted.

    PEFT takes a name for a target if it is one of those listed or ends with a dot and one of them.

    Example:
        >>> names = ["layer.0.key", "layer.0.dense", "layer.1.key", "layer.1.dense", "pooler.dense"]
        >>> shortest_names(names[:4], names[4:])
        ['0.dense', '1.dense', 'key']
    """
    taken = {ending for name in others for ending in _endings(name)}
    chosen = {next((ending for ending in _endings(name) if ending not in taken), name) for name in wanted}
    # an ending may cover another: `dense` makes `output.dense` superfluous
    return sorted(one for one in chosen if not any(one.endswith(f".{other}") for other in chosen))


def readable_names(wanted: Iterable[str], others: Iterable[str]) -> list[str] | str:
    r"""
    What to write into `target_modules` so that PEFT targets `wanted` and none of `others`: the shortest endings, or
    where these are many, because what is to be left out has a similar name, a regular expression if one does it.

    Example:
        >>> readable_names([f"encoder.layer.{number}.dense" for number in range(20)], ["pooler.dense"])
        '(?:.*\\.)?(?:\\d+\\.dense)'
    """
    wanted, others = list(wanted), list(others)
    short = shortest_names(wanted, others)
    if len(short) <= _MANY:
        return short
    for names in (short, wanted):
        shapes = sorted({_shape(name) for name in names})
        pattern = rf"(?:.*\.)?(?:{'|'.join(shapes)})"
        if 2 * len(shapes) <= len(short) and set(matched(pattern, [*wanted, *others])) == set(wanted):
            return pattern
    return short


def _shape(name: str) -> str:
    """The name as a pattern, with any number where it has one."""
    return r"\.".join(r"\d+" if key.isdigit() else re.escape(key) for key in name.split("."))


def matched(patterns: Sequence[str] | str, names: Iterable[str]) -> list[str]:
    """The names that PEFT takes for targets; a single string is a regular expression for the whole name."""
    if isinstance(patterns, str):
        return [name for name in names if re.fullmatch(patterns, name)]
    endings = tuple(f".{pattern}" for pattern in patterns)
    return [name for name in names if name in patterns or name.endswith(endings)]


def _endings(name: str) -> list[str]:
    """`c`, `b.c`, `a.b.c` of `a.b.c`; an ending that is only a number says nothing to a reader and is left out."""
    keys = name.split(".")
    endings = [".".join(keys[start:]) for start in reversed(range(len(keys)))]
    return [ending for ending in endings if not ending.isdigit()] or [name]


def _leaves(
    name: str, module: nn.Module, holders: tuple[str, ...] = ()
) -> Iterator[tuple[str, nn.Module, tuple[str, ...]]]:
    """Every module without children, with the types of what holds it, from the root on."""
    bare = unwrapped(module)
    if isinstance(bare, nn.MultiheadAttention):  # it reads the weights of its layers itself
        return
    children = [(key, child) for key, child in bare_children(name, module) if OBJECTIVES not in key.split(".")]
    if not children or _type(bare) == "Norm":  # one may hold its activation
        yield bare_name(name), bare, holders
        return
    for key, child in children:
        yield from _leaves(key, child, (*holders, type(bare).__name__))


def _layer(name: str, module: nn.Module, types: tuple[str, ...], part: str, *, root: str) -> Layer | None:
    kind_of_layer = _type(module)
    if kind_of_layer is None:
        return None
    inputs, outputs = _widths(module)
    if kind_of_layer == "Norm":
        return Layer(name, "norm", kind_of_layer, inputs, outputs, part)
    if "Conv" in kind_of_layer and kind_of_layer != "Conv1D":
        return Layer(name, "convolution", kind_of_layer, inputs, outputs, part)
    # the type of the block itself says nothing: `BertLayer`, but also `SwinAttentionBlock`
    inside = [*types[1:], *name.removeprefix(root).split("."), *root.split(".")[-2:]]
    attention = any(_ATTENTION.search(word) for word in inside) or _PROJECTIONS.match(name.rpartition(".")[2])
    return Layer(name, "attention" if attention else "mlp", kind_of_layer, inputs, outputs, part)


def _type(module: nn.Module) -> str | None:
    if getattr(module, "parametrizations", None) is not None or hasattr(module, "weight_g"):
        return None
    name = type(module).__name__
    for convolution in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        if isinstance(module, convolution):
            if module.padding_mode != "zeros":  # PEFT's own convolution pads with zeros (0.21)
                return None
            return f"{'Grouped' if module.groups > 1 else ''}{convolution.__name__}"
    if name == "Conv1D" and hasattr(module, "nf"):
        return "Conv1D"
    # quantised layers are often no `nn.Linear`, but say how wide they are; what a model brings itself (I-BERT) PEFT
    # does not know
    foreign = not type(module).__module__.startswith("transformers.models.") and _LINEAR.search(name)
    if isinstance(module, nn.Linear) or (foreign and isinstance(getattr(module, "out_features", 0), int)):
        return "Linear" if getattr(module, "in_features", None) else None
    weight = getattr(module, "weight", None)
    if "norm" in name.lower() and isinstance(weight, nn.Parameter) and weight.dim() == 1:
        return "Norm"
    return None


def _widths(module: Any) -> tuple[int, int]:
    for inputs, outputs in (("in_features", "out_features"), ("in_channels", "out_channels"), ("nx", "nf")):
        if hasattr(module, inputs) and hasattr(module, outputs):
            return int(getattr(module, inputs)), int(getattr(module, outputs))
    return int(module.weight.shape[0]), int(module.weight.shape[0])


def _numbers(config: Any, names: Iterable[str]) -> set[int]:
    owners = [config, config.get_text_config() if hasattr(config, "get_text_config") else None]
    values = {getattr(owner, name, None) for owner in owners if owner is not None for name in names}
    return {value for value in values if isinstance(value, int)}
