"""Weights of a teacher for a student that was built without any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer._blocks import ancestors
from hf_transfer.attach import CHILD
from hf_transfer.students.stacks import Stack, origin, origins


__all__ = ["fill", "misfit"]

# A copy of a source has none: its statistics do not move.
_COUNTER = "num_batches_tracked"


def misfit(teacher: nn.Module, student: nn.Module, stacks: list[Stack], kept: list[list[int]]) -> str:
    """The name of a tensor that only one of the two has, or has in another shape; empty if every one has its place."""
    moved = origins(teacher, student, stacks, kept)
    there = {name: tensor.shape for name, tensor in _tensors(teacher)}
    here = {origin(name, moved): tensor.shape for name, tensor in _tensors(student)}
    gone = {
        f"{name}.{key}"
        for stack, positions in zip(stacks, kept, strict=True)
        for name in stack.lists
        for place, key in enumerate(stack.keys)
        if place not in positions and not stack.repeated
    }
    expected = {name for name in there if not gone.intersection(ancestors(name))}
    # Constants that no block reads any more (the rotary frequencies of a kind of attention) may be left behind.
    dispensable = there.keys() - set(dict(teacher.named_parameters())) - teacher.state_dict().keys()
    for name in sorted((expected ^ here.keys()) - (expected & dispensable)):
        return name
    rows = _rows(stacks, kept)
    return next((name for name in here if there[name] != here[name] and (there[name], here[name]) not in rows), "")


def fill(teacher: nn.Module, student: Any, stacks: list[Stack], kept: list[list[int]], *, copy: bool) -> None:
    """
    Give every parameter and buffer of a student on the meta device the teacher's value; what is tied stays tied.

    Args:
        teacher (`nn.Module`): the teacher.
        student (`nn.Module`): of the same class, with fewer blocks.
        stacks (`list[Stack]`): the teacher's blocks.
        kept (`list[list[int]]`): positions that the student has, for each stack.
        copy (`bool`): whether to copy values; else the student shares the teacher's storage.
    """
    moved, rows = origins(teacher, student, stacks, kept), _rows(stacks, kept)
    made: dict[int, Tensor] = {}

    def of_teacher(tensor: Tensor, like: Tensor | None = None) -> Tensor:
        if id(tensor) not in made:
            value = tensor.detach()
            if like is not None and value.shape != like.shape:
                value = value[rows[value.shape, like.shape]]
            value = value.clone() if copy else value
            made[id(tensor)] = nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value
        return made[id(tensor)]

    for name, module in list(student.named_modules()):
        source = teacher.get_submodule(origin(name, moved))
        for key, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[key] = of_teacher(getattr(source, key), parameter)  # pyright: ignore
        for key, buffer in module._buffers.items():
            if buffer is not None:
                value = getattr(source, key)
                module._buffers[key] = torch.zeros_like(buffer, device="cpu") if value is None else of_teacher(value)
        for key, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.is_meta:
                setattr(module, key, of_teacher(getattr(source, key)))


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not name.startswith(f"{CHILD}.") and not name.endswith(_COUNTER):
            yield name, tensor


def _rows(stacks: list[Stack], kept: list[list[int]]) -> dict[tuple[torch.Size, torch.Size], list[int]]:
    """Which rows to take of a vector with a number for each hidden state (wav2vec2 sums its layers), by its shapes."""
    if len(stacks) != 1:
        return {}
    shapes = torch.Size([len(stacks[0]) + 1]), torch.Size([len(kept[0]) + 1])
    return {shapes: [0, *(position + 1 for position in kept[0])]}
