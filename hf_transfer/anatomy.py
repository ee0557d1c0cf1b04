"""The anatomy of a model: its embeddings, its blocks in forward order, its head, and the part of every parameter."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from hf_transfer._blocks import OBJECTIVES, ForwardOrder, Piece, ancestors, bare_name
from hf_transfer._heads import find_head, input_width, possible_heads


__all__ = ["Anatomy", "anatomy"]


@dataclass(frozen=True)
class Anatomy:
    """
    Where the parts of a model are; made by [`anatomy`]. All names are those of `model.named_modules()` and
    `model.named_parameters()`.

    The parts, in forward order, are `"embeddings"`, `"block.0"`, ..., `"block.N-1"`, `"neck"` and `"head"`. Every
    parameter belongs to exactly one; a tied parameter to the part where `named_parameters()` lists it. What lies
    between two blocks (patch merging, the final norm of an encoder, the projector between two towers) belongs to the
    block that follows; embedding tables are embeddings in whatever tower they stand; what lies between the last block
    and the head (final norm, pooler, dense layer of a classification head) is the neck. Adapters belong to the part
    into which they were put. Where the logits are the mean of two heads, both are the part `"head"`.

    Args:
        head (`str`):
            The layer that returns the logits. A pre-hook on it sees the features.
        blocks (`tuple[str, ...]`):
            The finest repeated units in forward order, encoder before decoder. A layer that is run repeatedly (ALBERT)
            is one block. Where a block is spread over several lists (XLM) this names its first module; `modules` names
            them all.
        embeddings (`tuple[str, ...]`):
            What runs before the blocks: embedding tables or the convolutional stem.
        feature_dim (`int`):
            Input width of the head.
    """

    head: str
    blocks: tuple[str, ...]
    embeddings: tuple[str, ...]
    feature_dim: int
    _parts: Mapping[str, list[str]] = field(repr=False, compare=False)
    _modules: Mapping[str, list[str]] = field(repr=False, compare=False)

    def parts(self) -> dict[str, list[str]]:
        """Parameter names by part, the parts in forward order; a part without parameters has an empty list."""
        return {part: list(names) for part, names in self._parts.items()}

    def part_of(self) -> dict[str, str]:
        """The part of each parameter, by parameter name."""
        return {name: part for part, names in self._parts.items() for name in names}

    def modules(self, part: str) -> list[str]:
        """
        Names of the largest modules that belong to one part alone. With all that is below them they own the parameters
        and buffers of the part, but for those directly in a module of several parts (wav2vec2's mask embedding).

        Raises:
            ValueError: if there is no such part.
        """
        if part not in self._modules:
            raise ValueError(
                f"the model has no part `{part}`; parts are numbered by its own blocks, and a wrong name would freeze "
                f'or train nothing. Use "embeddings", "block.0" to "block.{len(self.blocks) - 1}", "neck" or "head".'
            )
        return list(self._modules[part])


def anatomy(model: nn.Module, *, head: str | None = None, blocks: str | Sequence[str] | None = None) -> Anatomy:
    """
    Find the head, the blocks and the embeddings of any classifier of `transformers`, also under PEFT.

    Only the module tree and the configuration are read: no forward pass, no parameter values. Objectives attached to
    the model are left out.

    Args:
        model (`nn.Module`):
            A classifier, or a wrapper around one.
        head (`str`, *optional*):
            Name of the layer that returns the logits. By default the one linear layer or convolution outside the
            blocks with as many outputs as the model has labels; for a forecaster, what emits the forecast.
        blocks (`str` or `Sequence[str]`, *optional*):
            Names of the blocks in forward order, or the name of the list (`nn.ModuleList`, `nn.Sequential`) that holds
            them; an `nn.ModuleList` among several names stands for its items too. By default the finest whole units in
            the model's lists.

    Raises:
        ValueError: if several layers could be the head, or none; if there are no blocks; if a given name is no module;
            if the head and the blocks, or two blocks, lie inside each other.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
        >>> bert = anatomy(BertForSequenceClassification(config))
        >>> bert.head, bert.feature_dim
        ('classifier', 8)
        >>> bert.blocks
        ('bert.encoder.layer.0', 'bert.encoder.layer.1')
        >>> bert.parts()["neck"]
        ['bert.pooler.dense.weight', 'bert.pooler.dense.bias']
    """
    names = {name for name, _ in model.named_modules() if OBJECTIVES not in name.split(".")}
    if head is not None:
        _check_name(head, "head", names)
    given = None if blocks is None else _given_blocks(model, blocks, names)
    order = ForwardOrder(model, head=head, blocks=given)
    pieces = order.pieces()
    found = [piece.names[0] for piece in pieces if piece.is_block]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no list of repeated blocks; unfreezing and layer-wise learning rates go by "
            'block. Name them, blocks=["layer1", "layer2"], or the list that holds them, blocks="layers".'
        )
    if head is None:
        head = find_head(model, pieces)
    overlap = [block for block in found if f"{head}.".startswith(f"{block}.") or block.startswith(f"{head}.")]
    if overlap:
        raise ValueError(
            f"the head `{head}` and the block `{overlap[0]}` lie inside each other; a parameter belongs to one part. "
            "Name the last layer, which returns the logits: anatomy(model, head=...)."
        )
    # logits may be the mean of two heads (SwiftFormer): the one not chosen is no less a part of the head
    others = [
        name for name in possible_heads(model, pieces) if not {head, name} & {*ancestors(head), *ancestors(name)}
    ]
    heads = list(dict.fromkeys([head, *others]))
    # a module registered twice appears here under both names, in `named_modules()` under the first
    pieces = [piece for piece in order.pieces(heads) if not piece.is_module or piece.names[0] in names]
    units = [piece for piece in pieces if piece.is_block]
    if given is not None:
        rank = {name: number for number, name in enumerate(given)}
        units.sort(key=lambda unit: rank[unit.names[0]])

    modules: dict[str, list[str]] = {part: [] for part in _part_names(len(units))}
    home: dict[str, str] = {}
    for piece, part in _assign(pieces, units, heads, order):
        home.update((bare_name(name), part) for name in piece.names)
        if piece.is_module:
            modules[part].extend(piece.names)
    parts: dict[str, list[str]] = {part: [] for part in modules}
    for name, _ in model.named_parameters():
        if OBJECTIVES not in name.split("."):
            bare = bare_name(name)  # the copy that `modules_to_save` keeps belongs where the original does
            parts[next(home[above] for above in (bare, *reversed(ancestors(bare))) if above in home)].append(name)
    return Anatomy(
        head=head,
        blocks=tuple(unit.names[0] for unit in units),
        embeddings=tuple(
            name for name in modules["embeddings"] if any(True for _ in model.get_submodule(name).parameters())
        ),
        feature_dim=input_width(model, head),
        _parts=parts,
        _modules=modules,
    )


def _part_names(count: int) -> list[str]:
    return ["embeddings", *(f"block.{number}" for number in range(count)), "neck", "head"]


def _assign(
    pieces: Sequence[Piece], units: Sequence[Piece], heads: Sequence[str], order: ForwardOrder
) -> Iterator[tuple[Piece, str]]:
    """The part of each piece, by the rules in the docstring of [`Anatomy`]."""
    number = {unit.names[0]: f"block.{index}" for index, unit in enumerate(units)}
    above_heads = {above for head in heads for above in ancestors(head)}
    first = next(place for place, piece in enumerate(pieces) if piece.is_block)
    parts: list[str] = []
    following = "neck"
    for place, piece in reversed(list(enumerate(pieces))):
        name = piece.names[0]
        holder = name.rpartition(".")[0]
        if name in heads:
            part = "head"
        elif piece.is_block:
            part = following = number[name]
        elif holder in above_heads and not order.holds_blocks(holder):
            part = "neck"  # inside a classification head, which RoBERTa's derivatives register before the base model
        elif piece.is_embedding:
            part = "embeddings"
        elif holder in above_heads and not piece.is_module:
            part = "neck"  # beside the head, such as the weights with which wav2vec2 sums its layers
        else:
            part = "embeddings" if place < first else following
        parts.append(part)
    return zip(pieces, reversed(parts), strict=True)


def _given_blocks(model: nn.Module, blocks: str | Sequence[str], names: set[str]) -> list[str]:
    given: list[str] = []
    for name in [blocks] if isinstance(blocks, str) else blocks:
        _check_name(name, "blocks", names)
        module = model.get_submodule(name)
        # an `nn.ModuleList` has no forward of its own, an `nn.Sequential` may itself be a block
        is_list = isinstance(module, nn.ModuleList | nn.Sequential if isinstance(blocks, str) else nn.ModuleList)
        given += [f"{name}.{key}" for key, _ in module.named_children()] if is_list else [name]
    for name in given:
        inside = [other for other in given if other != name and name.startswith(f"{other}.")]
        if inside or given.count(name) > 1:
            raise ValueError(
                f"block `{name}` is given twice or lies inside block `{[*inside, name][0]}`; each parameter belongs "
                "to one part. Give each block once, without its children: blocks=[...]."
            )
    return given


def _check_name(name: str, argument: str, names: set[str]) -> None:
    if name not in names or not name:
        same_key = sorted(other for other in names if other.rpartition(".")[2] == name.rpartition(".")[2])
        close = (same_key or difflib.get_close_matches(name, names))[:3]
        hint = f"; near it are {', '.join(close)}" if close else ""
        raise ValueError(
            f'{argument}="{name}" is no module of the model{hint}; parts go by the names of model.named_modules(), '
            f"with PEFT's prefix `base_model.model.` if it is wrapped. Pass one such: anatomy(model, {argument}=...)."
        )
