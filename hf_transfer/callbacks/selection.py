"""The pattern language that selects parameters, for schedules and learning rates alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase


_BLOCKS = re.compile(r"block\.(-?\d+)(?:-(-?\d+))?")
_ALWAYS_KNOWN = ("embeddings", "neck", "head")
_BASE, _PROMPT = ".base_layer.", "prompt_encoder."


def select_parameters(
    parts: Mapping[str, Sequence[str]], patterns: Iterable[str], *, without: Iterable[str] = ()
) -> set[str]:
    """
    Names of the parameters that a list of patterns selects: the one pattern language of schedules and learning rates.

    A pattern is the first of these that fits: `all`; a part of the model (`head`, `neck`, `embeddings`, `block.3`); a
    block counted from the end (`block.-1`); an inclusive range of blocks (`block.8-11`, `block.-4--1`); `adapters`,
    all that PEFT put beside the layers of the model in whatever part, without the copies that it trains in full; a
    shell pattern over part names (`block.*`); a shell pattern over parameter names (`*.LayerNorm.*`).

    Args:
        parts (`Mapping[str, Sequence[str]]`):
            Parameter names by part, as `anatomy(model).parts()` gives them.
        patterns (`Iterable[str]`):
            The patterns; the selection is their union.
        without (`Iterable[str]`, *optional*):
            Patterns taken out of the selection again.

    Raises:
        ValueError: if a pattern selects nothing, or a block index is out of range. `head`, `neck` and `embeddings` may
            be empty: not every model has them.

    Example:
        >>> parts = {"block.0": ["b.0.weight"], "block.1": ["b.1.weight"], "head": ["h.bias"]}
        >>> sorted(select_parameters(parts, ["head", "block.-1"]))
        ['b.1.weight', 'h.bias']
        >>> sorted(select_parameters(parts, ["block.0-1"])) == sorted(select_parameters(parts, ["b.*"]))
        True
    """
    selected = {name for pattern in patterns for name in _matches(parts, pattern)}
    return selected.difference(name for pattern in without for name in _matches(parts, pattern))


def _matches(parts: Mapping[str, Sequence[str]], pattern: str) -> list[str]:
    if pattern == "all":
        return [name for names in parts.values() for name in names]
    if pattern in _ALWAYS_KNOWN:
        return list(parts.get(pattern, ()))
    if pattern == "adapters":
        return _adapters(parts)
    if block := _BLOCKS.fullmatch(pattern):
        return _block_range(parts, pattern, *block.groups())
    by_part = [name for part, names in parts.items() if fnmatchcase(part, pattern) for name in names]
    found = by_part or [name for names in parts.values() for name in names if fnmatchcase(name, pattern)]
    if not found:
        example = next(name for names in parts.values() for name in names)
        raise ValueError(
            f"`{pattern}` is no part of this model and matches none of its parameter names - what it was meant to "
            f"select would be left out silently - use `all`, one of the parts {describe_parts(parts)}, a range such "
            f"as `block.0-1`, or a shell pattern over parameter names, which look like `{example}`."
        )
    return found


def _adapters(parts: Mapping[str, Sequence[str]]) -> list[str]:
    """By structure, not by a list of methods: PEFT keeps the adapted layer as `base_layer` beside its adapters."""
    names = [name for of_part in parts.values() for name in of_part]
    adapted = {name[: name.index(_BASE) + 1] for name in names if _BASE in name}
    found = [name for name in names if name.startswith(_PROMPT) or (_BASE not in name and _owner(name, adapted))]
    if not found:
        raise ValueError(
            "`adapters` selects nothing: the model has none, and the phase would train less than it says - put one in "
            f'with add_adapter(model, "lora"), or use one of the parts {describe_parts(parts)}.'
        )
    return found


def _owner(name: str, adapted: set[str]) -> bool:
    keys = name.split(".")
    return any(".".join(keys[:length]) + "." in adapted for length in range(1, len(keys)))


def _block_range(parts: Mapping[str, Sequence[str]], pattern: str, first: str, last: str | None) -> list[str]:
    count = sum(part.startswith("block.") for part in parts)
    bounds = [int(index) + count * index.startswith("-") for index in (first, last or first)]
    if not 0 <= bounds[0] <= bounds[1] < count:
        raise ValueError(
            f"`{pattern}` is no range of blocks of this model, whose parts are {describe_parts(parts)} - blocks count "
            f"from 0 (or from the end as -1, -2, ...) and the last of a range is included - write at most "
            f"`block.{count - 1}`, and the lower block of a range first."
        )
    return [name for index in range(bounds[0], bounds[1] + 1) for name in parts[f"block.{index}"]]


def describe_parts(parts: Iterable[str]) -> str:
    """
    The parts of a model in one short line, with the run of blocks abbreviated.

    Example:
        >>> describe_parts(["embeddings", "block.0", "block.1", "block.2", "head"])
        '`embeddings`, `block.0` to `block.2`, `head`'
    """
    words: list[str] = []
    blocks = [part for part in parts if part.startswith("block.")]
    for part in parts:
        if not part.startswith("block."):
            words.append(f"`{part}`")
        elif part == blocks[0]:
            words.append(f"`{part}` to `{blocks[-1]}`" if len(blocks) > 1 else f"`{part}`")
    return ", ".join(words)
