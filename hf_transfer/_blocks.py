"""The modules of a model in forward order, and which of them are its blocks: read off the module tree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import nn


__all__ = ["ForwardOrder", "Piece", "ancestors", "bare_children", "bare_modules", "bare_name", "unwrapped"]

Named = tuple[str, nn.Module]

OBJECTIVES = "transfer_objectives"  # the child that `attach` adds; it is no part of the model
_WRAPPERS = re.compile(r"\.(?:base_layer|original_module|modules_to_save\.[^.]+)(?=\.|$)")
_EMBEDDING = re.compile(r"(?:^|_)(?:emb|token|prompt)")
# Children registered on the wrong side of the blocks beside them, as `class.child`: the tree cannot tell, running the
# architectures of transformers 5.23 did. Everything else runs in registration order.
_RUNS_BEFORE = re.compile(
    r"LayoutLMv3Encoder\.rel_pos_|Qwen3ASREncoder\.conv"  # position biases; the stem of the audio tower
    r"|(?:DebertaV2|SEWDTransformer)Encoder\.(?:LayerNorm|conv)"  # the norm of the position embeddings
)
_RUNS_AFTER = re.compile(
    r"\.pooler|\.final_layer_norm|BigBirdPegasus\w+\.layernorm_embedding|T5Gemma\w+\.norm"
    r"|(?:Wav2Vec2ConformerEncoder|StableLayerNorm)\.layer_norm"  # wav2vec2 itself has it before its blocks
)


class Piece(NamedTuple):
    """A stretch of the forward pass: a block, or else the largest module (or parameter) without a block or head."""

    names: tuple[str, ...]
    is_block: bool = False
    is_module: bool = True
    is_embedding: bool = False  # by type or name, and not between the blocks of one stack (patch merging)


def bare_name(name: str) -> str:
    """The name without PEFT's wrappers: `score.base_layer.weight` becomes `score.weight`."""
    return _WRAPPERS.sub("", name)


def bare_children(name: str, module: nn.Module) -> Iterator[Named]:
    """The children a module has without PEFT's wrappers and without attached objectives, under their full names."""
    name, module = _unwrap(name, module)
    for key, child in module.named_children():
        if key != OBJECTIVES:
            yield (f"{name}.{key}" if name else key), child


def bare_modules(name: str, module: nn.Module) -> Iterator[Named]:
    """A module and everything below it, as [`bare_children`] sees it."""
    yield name, module
    for child in bare_children(name, module):
        yield from bare_modules(*child)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that PEFT's wrappers run; any other module is returned as it is."""
    return _unwrap("", module)[1]


def ancestors(name: str) -> list[str]:
    """Names of all modules that hold `name`, the model itself (`""`) first."""
    return [""] + [name[:i] for i, character in enumerate(name) if character == "."]


def _unwrap(name: str, module: nn.Module) -> Named:
    """Step into the module that a PEFT wrapper runs; any other module is returned as it is."""
    inner = dict(module.named_children())
    if "base_layer" in inner:  # a tuner layer: LoRA, IA3, layer-norm tuning, ...
        return _unwrap(f"{name}.base_layer", inner["base_layer"])
    if "original_module" in inner:  # `modules_to_save` keeps a trained copy per adapter; the active one runs
        saved = dict(inner["modules_to_save"].named_children()) if "modules_to_save" in inner else {}
        active = [key for key in saved if key in getattr(module, "active_adapters", ())]
        if active:
            return _unwrap(f"{name}.modules_to_save.{active[0]}", saved[active[0]])
        return _unwrap(f"{name}.original_module", inner["original_module"])
    return name, module


class ForwardOrder:
    """
    The pieces of a model in the order in which they run, as far as the module tree tells: registration order.

    **Blocks** are the items of lists (`nn.ModuleList`, `nn.Sequential`), the finest that are still whole units. A list
    counts if most of its items hold at least two weight matrices: this leaves out convolutional stems and the layers
    inside a residual block. Only a model without any such list (MobileNetV1) has single layers as blocks. An item is a
    *stage*, and its own list is opened, if nothing it holds beside that list is as large as one of the list's items
    (patch merging is not, attention is), and if types repeat in the list (the sub-layers of a T5 block all differ).

    **Lists run in lockstep** if they are siblings of equal length, each with items of one type: item `i` of all of
    them forms one block in XLM (attention, norm, feed-forward, norm), or one stage in PVT (patch embedding, blocks).

    **Towers**: one that reads tokens runs after its siblings that read pixels or sound, because it takes in their
    output (T5Gemma2 registers it first).

    Args:
        model (`nn.Module`): The model.
        head (`str`, *optional*): Name of the head, if known; a list of which it is an item holds no blocks.
        blocks (`Sequence[str]`, *optional*): Names of the blocks, instead of the rules above.
    """

    def __init__(self, model: nn.Module, *, head: str | None = None, blocks: Sequence[str] | None = None) -> None:
        self.model = model
        self._head = head
        self._given = frozenset(blocks or ())
        self._lists: set[str] = set()
        self._least = 2  # weight matrices in a block
        self._counts: dict[int, int] = {}
        if blocks is None:
            found = list(self._outer_lists("", model))
            if not found:
                self._least = 1
                found = list(self._outer_lists("", model))
            for named in found:
                self._open(named)
        self._opened = {above for name in (*self._lists, *self._given) for above in ancestors(name)}
        self._heads: frozenset[str] = frozenset()
        self._above_heads: frozenset[str] = frozenset()

    def pieces(self, heads: Iterable[str] = ()) -> list[Piece]:
        """All pieces that own parameters or buffers, in forward order; what holds a head is taken apart."""
        self._heads = frozenset(heads)
        self._above_heads = frozenset(above for head in self._heads for above in ancestors(head))
        return list(self._walk("", self.model, in_stage=False))

    def holds_blocks(self, name: str) -> bool:
        """Whether blocks lie below the module `name`."""
        return name in self._opened or name in self._lists

    # -- which lists hold blocks

    def _matrices(self, named: Named) -> int:
        """How many modules below own a matrix, adapters left out; quantised weights may be buffers of any type."""
        name, module = named
        if id(module) not in self._counts:
            _, bare = _unwrap(name, module)
            own = any(tensor.ndim >= 2 for tensor in (*bare.parameters(recurse=False), *bare.buffers(recurse=False)))
            self._counts[id(module)] = own + sum(self._matrices(child) for child in bare_children(name, module))
        return self._counts[id(module)]

    def _is_block_list(self, named: Named) -> bool:
        name, module = named
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            return False
        if self._head is not None and self._head.rpartition(".")[0] == name:  # the layers of a classification head
            return False
        items = list(bare_children(*named))
        whole = [item for item in items if any(item[1].children()) and self._matrices(item) >= self._least]
        return 2 * len(whole) > len(items)

    def _outer_lists(self, name: str, module: nn.Module) -> Iterator[Named]:
        """The lists of blocks below a module, without the lists inside their items."""
        for child in bare_children(name, module):
            if self._is_block_list(child):
                yield child
            else:
                yield from self._outer_lists(*child)

    def _open(self, named: Named) -> None:
        """Note a list of blocks or of stages, and the lists of its stages."""
        self._lists.add(named[0])
        inner = [found for item in bare_children(*named) if (found := self._list_of_stage(item)) is not None]
        types = [[type(item) for item in module.children()] for _, module in inner]
        if any(len(kinds) == 1 or len(set(kinds)) < len(kinds) for kinds in types):
            for found in inner:
                self._open(found)

    def _list_of_stage(self, unit: Named) -> Named | None:
        """The list that makes up a stage, or `None` if the unit is a block."""
        lists = [unit] if self._is_block_list(unit) else list(self._outer_lists(*unit))
        if len(lists) != 1:
            return None
        size = max(self._matrices(item) for item in bare_children(*lists[0]))
        while unit[0] != lists[0][0]:
            children = list(bare_children(*unit))
            unit = next(child for child in children if f"{lists[0][0]}.".startswith(f"{child[0]}."))
            if any(self._matrices(child) >= size for child in children if child[0] != unit[0]):
                return None
        return lists[0]

    # -- the walk

    def _walk(self, name: str, module: nn.Module, *, in_stage: bool) -> Iterator[Piece]:
        """The pieces of a module that holds blocks or a head."""
        inner, bare = _unwrap(name, module)
        for key, _ in bare.named_parameters(recurse=False):
            embedding = not in_stage and _EMBEDDING.search(key) is not None
            yield Piece((f"{inner}.{key}" if inner else key,), is_module=False, is_embedding=embedding)
        children, late = self._in_order(type(bare).__name__, list(bare_children(name, module)))
        done: set[str] = set()
        for child in children:
            group = self._lockstep(child, children)
            if child[0] in done:
                continue
            if any(name in self._lists for name, _ in group):
                done.update(name for name, _ in group)
                for row in zip(*(bare_children(*member) for member in group), strict=True):
                    yield from self._row(row)
            else:
                yield from self._single(child, plain=in_stage or child[0] in late, in_stage=in_stage)

    def _single(self, named: Named, *, plain: bool, in_stage: bool) -> Iterator[Piece]:
        name, module = named
        if name in self._given:
            yield Piece((name,), is_block=True)
        elif name not in self._heads and (name in self._opened or name in self._above_heads):
            yield from self._walk(name, module, in_stage=in_stage)
        elif any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
            embedding = isinstance(module, nn.Embedding) or _EMBEDDING.search(name.rpartition(".")[2]) is not None
            yield Piece((name,), is_embedding=embedding and not plain)

    def _row(self, row: Sequence[Named]) -> Iterator[Piece]:
        """One item of a list, or of several lists in lockstep: a stage or a block."""
        staged = any(self.holds_blocks(name) for name, _ in row)
        if not staged and any(self._matrices(named) >= self._least for named in row):
            yield Piece(tuple(name for name, _ in row), is_block=True)
            return
        for named in row:
            if named[0] in self._lists:  # a stage that is itself a list of blocks
                for item in bare_children(*named):
                    yield from self._row([item])
            else:
                yield from self._single(named, plain=True, in_stage=True)

    def _lockstep(self, named: Named, siblings: Iterable[Named]) -> list[Named]:
        """The lists that run side by side with this one, itself included."""

        def size(module: nn.Module) -> int:
            uniform = isinstance(module, nn.ModuleList) and len({type(item) for item in module}) == 1
            return len(list(module.children())) if uniform else 0

        length = size(named[1])
        if length == 0 or self._given:
            return [named]
        return [other for other in siblings if size(other[1]) == length]

    def _in_order(self, kind: str, children: list[Named]) -> tuple[list[Named], set[str]]:
        """Children in forward order, and the names of those that had to be put last."""
        where = {name: f"{kind}.{name.rpartition('.')[2]}" for name, _ in children}
        early = [child for child in children if _RUNS_BEFORE.search(where[child[0]])]
        late = [child for child in children if _RUNS_AFTER.search(where[child[0]])]
        towers = [child for child in children if child[0] in self._opened]
        reads_tokens = [getattr(module, "main_input_name", "input_ids") == "input_ids" for _, module in towers]
        readers = [tower for tower, tokens in zip(towers, reads_tokens, strict=True) if tokens]
        if reads_tokens == sorted(reads_tokens):
            readers = []
        moved = {name for name, _ in (*early, *late, *readers)}
        rest = [child for child in children if child[0] not in moved]
        return [*early, *rest, *readers, *late], {name for name, _ in late}
