"""Candidates for a source model: how they are named, what controls there are, and how they are loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hf_transfer.compare.execution.quiet import quietly
from hf_transfer.data.loading import TransferData
from hf_transfer.features.extraction.taps import head_modules
from hf_transfer.models import (
    _auto_model,
    _check_kind,
    _config,
    _with_padding,
    load_model,
    load_processor,
    resolve_name,
    untrained_model,
)
from hf_transfer.random_state import random_numbers_put_back
from hf_transfer.weights import reinitialize_blocks


MARK = "#"
"""Between the name of a checkpoint and that of a control, as in `embedded:image#random`."""
RANDOM, REINIT = "random", "reinit:"

__all__ = [
    "MARK",
    "RANDOM",
    "REINIT",
    "Candidate",
    "Loaded",
    "is_control",
    "load_candidate",
    "load_for_target",
    "named_candidates",
    "with_controls",
]


@dataclass(frozen=True)
class Candidate:
    """
    A model that may be the source.

    Args:
        name (`str`): what it is called in tables.
        checkpoint (`str`, *optional*): Hub id, path or embedded name; None for a model in memory.
        control (`str`, *optional*): `random` for its architecture with random weights, `reinit:N` for its N top blocks
            and neck drawn anew; empty for the checkpoint as it is.
        pair (`tuple`, *optional*): model and processor in memory.
    """

    name: str
    checkpoint: str | None = None
    control: str = ""
    pair: tuple[nn.Module, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Loaded:
    """
    A candidate in memory.

    Args:
        model (`nn.Module`): with the head that it was trained with, where it has one.
        processor (`Any`): its image processor, tokenizer or feature extractor.
        no_head (`str`, *optional*): why its head says nothing of source classes; empty where it does.
        notes (`tuple[str, ...]`): what is to be told of it.
    """

    model: nn.Module
    processor: Any
    no_head: str = ""
    notes: tuple[str, ...] = ()


def named_candidates(models: Any) -> list[Candidate]:
    """
    Candidates of what a user gives.

    Args:
        models (sequence or mapping): Hub ids, paths, embedded names, each perhaps with `#random` or `#reinit:N`
            behind it, or pairs of a model and its processor; in a mapping under names of their own.

    Raises:
        TypeError: if one is none of these.
        ValueError: if there is none, two have one name, or a control is unknown.

    Example:
        >>> [own.control for own in named_candidates(["embedded:image", "embedded:image#reinit:1"])]
        ['', 'reinit:1']
    """
    if isinstance(models, (str, os.PathLike)):
        models = [models]
    given = list(models.items()) if isinstance(models, Mapping) else [(None, item) for item in models]
    if not given:
        raise ValueError(
            "There is no candidate: nothing can be ranked. Pass Hub ids, folders, or pairs of a model and its "
            'processor, such as `["google/vit-base-patch16-224", "microsoft/resnet-18"]`.'
        )
    found = [_candidate(item, name) for name, item in given]
    names = [own.name for own in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"Two candidates are called `{twice}`: their scores could not be told apart. Leave one out, or give each "
            "a name, `{'first': ..., 'second': ...}`."
        )
    return found


def is_control(name: str) -> bool:
    """
    Whether a candidate of this name is a control, with weights drawn at random.

    Example:
        >>> is_control("embedded:image#reinit:1"), is_control("embedded:image")
        (True, False)
    """
    control = name.rpartition(MARK)[2] if MARK in name else ""
    return control == RANDOM or (control.startswith(REINIT) and control.removeprefix(REINIT).isdecimal())


def with_controls(names: Sequence[str], controls: Iterable[str]) -> list[str]:
    """
    The checkpoints, and a copy of each for every control.

    Args:
        names (`Sequence[str]`): Hub ids, paths or embedded names.
        controls (`Iterable[str]`): `random`, `reinit:1`, ...

    Raises:
        ValueError: if there is no such control.

    Example:
        >>> with_controls(["a", "b"], ["random"])
        ['a', 'b', 'a#random', 'b#random']
    """
    controls = [_control(own) for own in controls]
    plain = [name for name in names if not is_control(name)]
    return [*names, *(f"{name}{MARK}{control}" for control in controls for name in plain)]


def load_candidate(
    candidate: Candidate, data: TransferData, *, seed: int = 0, trust_remote_code: bool = False
) -> Loaded:
    """
    A candidate with the head it was trained with, and its processor.

    Args:
        candidate (`Candidate`): which.
        data (`TransferData`): the target, which decides on the task.
        seed (`int`, *optional*, defaults to 0): of what is drawn at random.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether to run code from its repository.

    Raises:
        ValueError: if it is no model for the task, or has too few blocks for the control.
        OSError: if there is none.
    """
    if candidate.pair is not None:
        return _given(*candidate.pair)
    assert candidate.checkpoint is not None
    options: Any = {"trust_remote_code": trust_remote_code}
    with random_numbers_put_back(seed):
        if candidate.control == RANDOM:
            model, processor = untrained_model(candidate.checkpoint, data, **options)
            return Loaded(model, processor, "its weights are random")
        name = resolve_name(candidate.checkpoint)
        config = _config(name, {"revision": "main", **options})
        if config is not None:
            _check_kind(config, data, name=candidate.checkpoint)
        processor = load_processor(name, data, **options)
        with _no_report():
            model, info = _auto_model(data).from_pretrained(name, output_loading_info=True, **options)
        model = _with_padding(model, processor)
        if candidate.control:
            reinitialize_blocks(model, _count(candidate.control))
    new = {str(key) for key in info["missing_keys"]}
    heads = head_modules(model)
    of_head = {key for key in new if any(key == head or key.startswith(head + ".") for head in heads)}
    notes = ()
    if below := sorted(new - of_head):
        notes = (
            f"{len(below)} weights below its head are not in the checkpoint and were drawn at random "
            f'({below[0]}): prefer `layers="mean"` or a `pooling`, which do not read them.',
        )
    return Loaded(model, processor, "its checkpoint has no head that was trained" if of_head else "", notes)


def load_for_target(
    candidate: Candidate, data: TransferData, *, seed: int = 0, trust_remote_code: bool = False
) -> tuple[nn.Module, Any]:
    """The same backbone with a head for the classes of `data`, and the processor; arguments as [`load_candidate`]."""
    if candidate.checkpoint is None:
        raise ValueError(
            f"`{candidate.name}` was given as a model in memory, whose head is of other classes: it cannot be loaded "
            "with a new one. Save it with `save_pretrained`, and pass the folder."
        )
    options: Any = {"trust_remote_code": trust_remote_code}
    with random_numbers_put_back(seed):
        if candidate.control == RANDOM:
            return untrained_model(candidate.checkpoint, data, **options)
    # a checkpoint that lacks weights, and a control, draw them as they did for their scores
    drawn = load_candidate(candidate, data, seed=seed, trust_remote_code=trust_remote_code).model
    with random_numbers_put_back(seed), _no_report():
        model, processor = load_model(candidate.checkpoint, data, **options)
    return _with_backbone_of(model, drawn), processor


def _with_backbone_of(model: nn.Module, other: nn.Module) -> nn.Module:
    """The weights of another, but for the head: what the checkpoint lacks was drawn in both."""
    heads = head_modules(model)
    state = {
        name: value
        for name, value in other.state_dict().items()
        if not any(name == head or name.startswith(head + ".") for head in heads)
    }
    model.load_state_dict(state, strict=False)
    return model


@contextmanager
def _no_report() -> Iterator[None]:
    """Without what transformers reports of a new head: nothing is read off it."""
    logger = logging.getLogger("transformers.modeling_utils")

    # no higher level: transformers 5.23 then checks the plan of tensor parallelism aloud
    def grave(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(grave)
    try:
        with quietly():
            yield
    finally:
        logger.removeFilter(grave)


def _candidate(item: Any, name: str | None) -> Candidate:
    if isinstance(item, (str, os.PathLike)):
        text = os.fspath(item)
        checkpoint, mark, control = text.rpartition(MARK)
        if not mark or os.path.exists(text):
            return Candidate(name or text, text)
        return Candidate(name or text, checkpoint, _control(control))
    if isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], nn.Module):
        model, processor = item
        config = getattr(model, "config", None)
        return Candidate(name or getattr(config, "_name_or_path", "") or type(model).__name__, pair=(model, processor))
    raise TypeError(
        f"A candidate is a {type(item).__name__}, which is no model that could be read. Pass a Hub id, a folder, or "
        "`(model, processor)`."
    )


def _given(model: nn.Module, processor: Any) -> Loaded:
    if not head_modules(model):
        return Loaded(model, processor, "it has no head")
    return Loaded(model, processor)


def _control(control: str) -> str:
    if not is_control(MARK + control):
        raise ValueError(
            f"There is no control `{control}`: it is not known what to draw at random. Pass `random` (all weights) or "
            "`reinit:N` (the N top blocks and the neck), such as `embedded:image#reinit:1`."
        )
    return control


def _count(control: str) -> int:
    return int(control.removeprefix(REINIT))
