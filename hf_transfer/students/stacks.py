"""The lists of a model that hold its blocks, and what tells one of their blocks from another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from hf_transfer._blocks import ancestors
from hf_transfer.anatomy import Anatomy


__all__ = ["Stack", "difference", "origin", "origins", "signature", "stacks_of"]

# What may differ between two blocks of one kind: where they stand, what is left out at random, how they are run.
_INCIDENTAL = re.compile(
    r"drop|momentum|^training$|gradient_checkpointing|(?:^|_)(?:idx|index|id|number|num|i)$|^layer$|layers$|^name$",
    re.IGNORECASE,
)
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Stack:
    """
    Blocks that stand in one list, or in several in lockstep (XLM).

    Args:
        lists (`tuple[str, ...]`): names of the lists.
        keys (`tuple[str, ...]`): names of the blocks in each of them.
        numbers (`tuple[int, ...]`): their numbers in `Anatomy.blocks`.
        repeated (`bool`): whether it is one block, run several times (ALBERT); `keys` then repeats it.
    """

    lists: tuple[str, ...]
    keys: tuple[str, ...]
    numbers: tuple[int, ...]
    repeated: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def name(self) -> str:
        """Name of its first list."""
        return self.lists[0]

    def block(self, model: nn.Module, position: int) -> list[nn.Module]:
        """The modules of one of its blocks."""
        return [model.get_submodule(f"{name}.{self.keys[position]}") for name in self.lists]


def stacks_of(model: nn.Module, found: Anatomy) -> list[Stack]:
    """The stacks of a model, in forward order."""
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    if len(found.blocks) == 1 and isinstance(count, int) and count > 1:
        parent, _, key = found.blocks[0].rpartition(".")
        return [Stack((parent,), (key,) * count, tuple(range(count)), repeated=True)]
    members: dict[str, list[tuple[str, int]]] = {}
    for number, name in enumerate(found.blocks):
        parent, _, key = name.rpartition(".")
        members.setdefault(parent, []).append((key, number))
    stacks = []
    for parent, blocks in members.items():
        # The modules that run with a block under the same key of another list belong to it.
        beside = [
            {module.rpartition(".")[0] for module in found.modules(f"block.{number}") if module.endswith(f".{key}")}
            for key, number in blocks
        ]
        lists = [parent, *sorted(set.intersection(*beside) - {parent})] if len(blocks) > 1 else [parent]
        stacks.append(Stack(tuple(lists), tuple(key for key, _ in blocks), tuple(number for _, number in blocks)))
    return stacks


def origins(teacher: nn.Module, student: nn.Module, stacks: list[Stack], kept: list[list[int]]) -> dict[str, str]:
    """Names of modules of the student that stand elsewhere in the teacher, or may: by name, their name there."""
    moved: dict[str, str] = {}
    for stack, positions in zip(stacks, kept, strict=True):
        if stack.repeated:
            continue
        gone = {key for position, key in enumerate(stack.keys) if position not in positions}
        for name in stack.lists:
            stay = [key for key, _ in teacher.get_submodule(name).named_children() if key not in gone]
            here = [key for key, _ in student.get_submodule(name).named_children()]
            moved.update((f"{name}.{new}", f"{name}.{old}") for new, old in zip(here, stay, strict=True))
    return moved


def origin(name: str, moved: dict[str, str]) -> str:
    """The name in the teacher of a module or tensor of the student."""
    for above in (*ancestors(name), name):
        if above in moved:
            return moved[above] + name[len(above) :]
    return name


def signature(modules: list[nn.Module]) -> dict[str, Any]:
    """What a block is: shapes of its tensors, types and plain settings of its modules, by name."""
    found: dict[str, Any] = {}
    for number, block in enumerate(modules):
        for name, module in block.named_modules(prefix=str(number)):
            if "drop" not in f"{name.rpartition('.')[2]} {type(module).__name__}".lower():
                found[name] = type(module).__name__
                found.update((f"{name}.{key}", value) for key, value in _facts(module))
    return found


def difference(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The name of the first thing in which two signatures differ; empty if they agree."""
    return next(
        (key for key in [*first, *second] if key not in first or key not in second or first[key] != second[key]), ""
    )


def _facts(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if not _INCIDENTAL.search(key) and key != "num_batches_tracked":
            yield key, tuple(tensor.shape)
    for key, value in vars(module).items():
        plain = isinstance(value, _PLAIN)
        if isinstance(value, list | tuple):
            plain, value = all(isinstance(item, _PLAIN) for item in value), tuple(value)
        if plain and not key.startswith("_") and not _INCIDENTAL.search(key):
            yield key, value
