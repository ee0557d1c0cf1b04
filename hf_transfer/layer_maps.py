"""Layer maps: which block of a teacher each block of a student learns from."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Literal

from hf_transfer.anatomy import Anatomy


LayerRule = Literal["uniform", "last", "first", "stages", "skip", "before_last"]
"""The layer maps that go by name."""

Layers = LayerRule | Mapping[int, int] | Mapping[str, str] | Mapping[int | str, int | str]
"""A rule, or the pairs themselves: numbers of blocks, negative ones from the end, or names of modules."""

RULES: tuple[LayerRule, ...] = ("uniform", "last", "first", "stages", "skip", "before_last")

__all__ = ["RULES", "LayerRule", "Layers", "check_layers", "layer_map"]


def layer_map(student: Anatomy, teacher: Anatomy | None, rule: Layers = "uniform") -> dict[str, str]:
    r"""
    The teacher's block for each student's block that has one, by module name, in the student's order.

    Args:
        student (`Anatomy`):
            Of the student, with $L_S$ blocks.
        teacher (`Anatomy`, *optional*):
            Of the teacher, with $L_T$ blocks; `None` if only its stored outputs are left, whose modules are then to be
            named by a mapping.
        rule (`str` or `Mapping`, *optional*, defaults to `"uniform"`):
            - `"uniform"`: block $i$ of the student, counted from 1, to block $i L_T / L_S$ of the teacher, rounded up:
              with the embeddings as state 0, hidden state $i$ to hidden state $i L_T / L_S$. A deeper student has
              pairs for $L_T$ of its blocks, evenly spaced. Where both models hold their blocks in the same number of
              lists (stages, or encoder and decoder), each list is mapped to its own.
            - `"last"`: the last block to the last.
            - `"first"`: as many as both have, from the front.
            - `"stages"`: the last block of each stage, a stage being a list of blocks. A model with one list alone is
              cut into as many even pieces as the other has stages; two such, into 4.
            - `"skip"`: `"uniform"` without the last blocks (PKD-Skip).
            - `"before_last"`: all blocks of the student but its last to as many just before the teacher's last
              (PKD-Last).
            - a mapping from the student's to the teacher's, by number of the block, negative from the end, or by name
              of a module.

    A layer that is run repeatedly (ALBERT) is one block; what is read of it is the output of its last run. So it has
    one pair under `"uniform"`: its last output and that of the other model.

    Raises:
        ValueError: if the rule has no such name, leaves no pair, or names a block that one of the models lacks.
        TypeError: if it is neither a name nor a mapping.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from hf_transfer import anatomy
        >>> def bert(depth):
        ...     config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=depth, num_attention_heads=2)
        ...     return anatomy(BertForSequenceClassification(config))
        >>> layer_map(bert(2), bert(4))
        {'bert.encoder.layer.0': 'bert.encoder.layer.1', 'bert.encoder.layer.1': 'bert.encoder.layer.3'}
        >>> layer_map(bert(2), bert(4), {0: -2})
        {'bert.encoder.layer.0': 'bert.encoder.layer.2'}
    """
    check_layers(rule)
    if not isinstance(rule, str):
        return {_named(own, student, "student"): _named(theirs, teacher, "teacher") for own, theirs in rule.items()}
    if teacher is None:
        raise ValueError(
            f'layers="{rule}" for a teacher of which only stored outputs are left: how many blocks it had is unknown. '
            "Give the pairs with the names under which they are stored, such as "
            f'layers={{{len(student.blocks) - 1}: "encoder.layer.11"}}.'
        )
    ours, theirs = student.blocks, teacher.blocks
    if rule == "last":
        return {ours[-1]: theirs[-1]}
    if rule == "first":
        return dict(zip(ours, theirs, strict=False))
    if rule == "stages":
        return _stages(student, teacher)
    if rule == "uniform":
        return _uniform(ours, theirs)
    pairs = _uniform(ours, theirs) if rule == "skip" else {}
    if rule == "before_last":
        count = min(len(ours), len(theirs)) - 1
        pairs = dict(zip(ours[len(ours) - 1 - count : -1], theirs[len(theirs) - 1 - count : -1], strict=True))
    pairs = {own: other for own, other in pairs.items() if own != ours[-1] and other != theirs[-1]}
    if not pairs:
        raise ValueError(
            f'layers="{rule}" leaves out the last blocks, and of {len(ours)} in the student and {len(theirs)} in the '
            'teacher no pair is left: there would be nothing to learn. Give layers="last", or the pairs themselves '
            "such as layers={0: 2}."
        )
    return pairs


def check_layers(rule: Layers) -> None:
    """Refuse what can be no layer map of any two models."""
    if isinstance(rule, str):
        if rule not in RULES:
            raise ValueError(
                f'layers="{rule}" is no layer map: it does not say which blocks are compared. Give one of '
                f"{', '.join(RULES)}, or the pairs themselves such as layers={{0: 2, 1: 5}}."
            )
    elif not isinstance(rule, Mapping):
        raise TypeError(
            f"layers={rule!r} is a {type(rule).__name__}: which block of the teacher belongs to which of the student "
            "is not said. Give pairs, student first, such as layers={0: 2, 1: 5}, or a rule by name."
        )
    elif not rule:
        raise ValueError(
            'layers={} holds no pair: there would be nothing to learn. Give pairs such as {0: 2, 1: 5}, or "uniform".'
        )


def _uniform(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    lists, other_lists = _lists(ours), _lists(theirs)
    if len(lists) > 1 and len(lists) == len(other_lists):
        return {
            own: other
            for mine, its in zip(lists, other_lists, strict=True)
            for own, other in zip(*_even(mine, its), strict=True)
        }
    return dict(zip(*_even(ours, theirs), strict=True))


def _even(ours: Sequence[str], theirs: Sequence[str], count: int | None = None) -> tuple[list[str], list[str]]:
    """As many of each as the shorter has, evenly spaced, the last ones included."""
    count = min(len(ours), len(theirs), count or len(ours))
    return _spaced(ours, count), _spaced(theirs, count)


def _spaced(names: Sequence[str], count: int) -> list[str]:
    # upwards: with the embeddings as state 0, a pair never holds less of the longer model
    return [names[-(-number * len(names) // count) - 1] for number in range(1, count + 1)]


def _lists(names: Sequence[str]) -> list[list[str]]:
    """The blocks by the list in which they stand."""
    lists: dict[str, list[str]] = {}
    for name in names:
        lists.setdefault(name.rpartition(".")[0], []).append(name)
    return list(lists.values())


def _stages(student: Anatomy, teacher: Anatomy) -> dict[str, str]:
    ours, theirs = (
        [blocks[-1] for blocks in lists] if len(lists := _lists(anatomy.blocks)) > 1 else None
        for anatomy in (student, teacher)
    )
    count = None if ours or theirs else 4
    return dict(zip(*_even(ours or student.blocks, theirs or teacher.blocks, count), strict=True))


def _named(key: int | str, anatomy: Anatomy | None, whose: str) -> str:
    """The module that a number or a name stands for."""
    if anatomy is None:
        return str(key)  # the batch tells whether it is stored
    blocks = anatomy.blocks
    number = key if isinstance(key, int) else int(key) if key.removeprefix("-").isdecimal() else None  # JSON keys
    if number is not None:
        if not -len(blocks) <= number < len(blocks):
            raise ValueError(
                f"layers names block {number} of the {whose}, which has {len(blocks)}: there is no such hidden state. "
                f"Give numbers from 0 to {len(blocks) - 1}, or negative ones from the end, such as -1 for the last."
            )
        return blocks[number]
    name = str(key)
    known = [*blocks, *anatomy.embeddings, *(module for part in anatomy.parts() for module in anatomy.modules(part))]
    # below or above what the anatomy knows: the attention of a block, or the stage that holds it
    if not any(f"{name}.".startswith(f"{module}.") or module.startswith(f"{name}.") for module in known):
        close = difflib.get_close_matches(name, known, 3, 0.4) or blocks[:1]
        raise ValueError(
            f'layers names "{name}", which is no module of the {whose}: there is no such hidden state. Give a name as '
            f"in model.named_modules(), such as {', '.join(close)}, or the number of a block."
        )
    return name
