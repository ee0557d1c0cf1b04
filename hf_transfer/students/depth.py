"""The config of a model with fewer blocks: which of its fields say how many there are, found by trying them."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hf_transfer.students.stacks import Stack


__all__ = ["Path", "build_empty", "resized"]

Path = tuple[str | int, ...]

_COUNTS = re.compile(r"layer|depth|block|repeat|self_attends|stage")
_PER_BLOCK = re.compile(r"layer|block|attention|attn|rope|window|mlp|type")
# What a backbone returns, by number: no matter for a classifier, and refused where there are fewer.
_OUTPUTS = frozenset({"out_features", "out_indices", "stage_names", "_out_features", "_out_indices"})
_NUMBERS = re.compile(r"(?:layers|idxs?|indices)$")


def resized(
    teacher: Any, stacks: list[Stack], kept: list[list[int]], *, in_pattern: bool = False
) -> nn.Module | Stack:
    """
    A model of the teacher's class on the meta device with as many blocks as are kept, or the stack that no field of
    the config shortens.

    Args:
        teacher (`PreTrainedModel`): the teacher.
        stacks (`list[Stack]`): its blocks.
        kept (`list[list[int]]`): positions that stay, for each stack.
        in_pattern (`bool`, *optional*, defaults to `False`): whether lists of the config that say of each block what
            it is begin as the teacher's do; else they say of each block what it is in the teacher.
    """
    values = _as_lists(teacher.config.to_dict())
    student = None
    for stack, positions in zip(stacks, kept, strict=True):
        done = student is not None and not stack.repeated and _holds(student, teacher, stack, len(positions))
        if len(positions) < len(stack) and not done:
            count = len(positions)
            described = list(range(count)) if in_pattern else positions
            found = _shortened(teacher, values, stack, count, described)
            if found is None:
                return stack
            values, student = found
    return build_empty(teacher, values) if student is None else student


def build_empty(teacher: Any, values: dict[str, Any]) -> Any:
    """A model of the teacher's class and a config of these values, without weights."""
    config = type(teacher.config).from_dict(copy.deepcopy(values))
    config._attn_implementation = teacher.config._attn_implementation
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return type(teacher)(config)


def _shortened(
    teacher: Any, values: dict[str, Any], stack: Stack, count: int, described: list[int]
) -> tuple[dict[str, Any], Any] | None:
    """The first change of a field that shortens the stack, and the model it makes."""
    for path in _candidates(values, stack):
        for per_block in (True, False):
            changed = copy.deepcopy(values)
            owner = _at(changed, path[:-1])
            if per_block and not (isinstance(path[-1], str) and _choose_per_block(owner, stack, described)):
                continue
            owner[path[-1]] = count
            for key in _OUTPUTS & owner.keys() if isinstance(owner, dict) else ():
                del owner[key]
            try:
                student = build_empty(teacher, changed)
            except Exception:  # whatever a config or a model says to values that do not go together
                continue
            if stack.repeated or _holds(student, teacher, stack, count):
                return changed, student
    return None


def _holds(student: nn.Module, teacher: nn.Module, stack: Stack, count: int) -> bool:
    """Whether a model of the teacher's class has so many blocks in a stack; what else is in its list stays there."""
    for name in stack.lists:
        there = len(list(teacher.get_submodule(name).children()))
        try:
            here = len(list(student.get_submodule(name).children()))
        except AttributeError:
            return False
        if here != there - len(stack) + count:
            return False
    return True


def _candidates(values: dict[str, Any], stack: Stack) -> list[Path]:
    """Fields that hold the number of blocks of a stack, the likeliest first."""
    if stack.repeated:
        return [("num_hidden_layers",)]
    paths = [path for path, value in _numbers(values) if value == len(stack)]
    words = set(re.split(r"[._]", stack.name))

    def unlikely(path: Path) -> tuple[bool, int]:
        named = {word for part in path if isinstance(part, str) for word in part.split("_")}
        # `encoder_layers` for `model.encoder.layers`, and the third number of `depths` for `encoder.layers.2.blocks`
        index = isinstance(path[-1], int) and str(path[-1]) not in words
        return index, -len(named & words)

    return sorted(paths, key=unlikely)


def _numbers(values: Any, path: Path = ()) -> Iterator[tuple[Path, int]]:
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        if isinstance(value, dict) or (isinstance(value, list | tuple) and _COUNTS.search(str(key))):
            yield from _numbers(value, (*path, key))
        elif isinstance(value, int) and not isinstance(value, bool):
            name = next((part for part in reversed((*path, key)) if isinstance(part, str)), "")
            if _COUNTS.search(name):
                yield (*path, key), value


def _at(values: Any, path: Path) -> Any:
    for key in path:
        values = values[key]
    return values


def _as_lists(value: Any) -> Any:
    """A value as a config file would hold it: without tuples, which cannot be changed."""
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _choose_per_block(config: dict[str, Any], stack: Stack, positions: list[int]) -> bool:
    """Cut the lists of a config that hold something for each block, or numbers of blocks; false if there are none."""
    found = False
    for key, value in config.items():
        if not isinstance(value, list) or not value:
            continue
        if len(value) == len(stack) and _PER_BLOCK.search(key):
            config[key], found = [value[position] for position in positions], True
        elif _NUMBERS.search(key) and all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            config[key], found = [positions.index(item) for item in value if item in positions], True
    return found
