"""The one pass through a candidate: features of the target rows, and what its own head says of source classes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_transfer.features import extract_features
from hf_transfer.features.extraction.taps import HEAD_COLUMN, find_taps, head_modules, is_base
from hf_transfer.features.head_logits import head_logits
from hf_transfer.features.probes.folding import linear_head
from hf_transfer.features.probes.labelled_rows import ProbeRows, read_rows
from hf_transfer.selection.candidates import Loaded
from hf_transfer.selection.target import TargetRows


LAYERS = ("head", "mean", "best")
_BLOCK = 8192  # rows that go through the head at a time

__all__ = ["LAYERS", "CandidateRows", "read_candidate"]


@dataclass(frozen=True)
class CandidateRows:
    """
    What one pass through a candidate gives; `R` labelled rows, of which an example with tokens has several.

    Args:
        layers (`dict[str, np.ndarray]`): `(R, D)` float32 by name: one, or every block where the best is to be found.
        labels (`np.ndarray`): `(R,)` int64 classes, or float64 values.
        examples (`np.ndarray`): `(R,)`, number of the example in the target rows.
        source_logits (`np.ndarray`, *optional*): `(R, Z)` of its own head.
        no_source (`str`, *optional*): why there are none.
        computed (`int`): examples that went through the model now; 0 where all came from the cache.
        seconds (`float`): of the pass.
        notes (`tuple[str, ...]`): what is to be told.
    """

    layers: Mapping[str, np.ndarray] = field(repr=False)
    labels: np.ndarray = field(repr=False)
    examples: np.ndarray = field(repr=False)
    source_logits: np.ndarray | None = field(default=None, repr=False)
    no_source: str = ""
    computed: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def read_candidate(
    loaded: Loaded, target: TargetRows, *, layers: str = "head", pooling: str | None = None, **extraction: Any
) -> CandidateRows:
    """
    Read the features of the target rows off a candidate, in one pass through [`extract_features`].

    `"head"` is the input of its head, with a `pooling` the output of its last block pooled so; `"mean"` the average of
    its blocks, each standardised (mean 0 and deviation 1 of every feature) so that none outweighs the others; `"best"`
    gives every block and the input of the head. Logits of source classes are the head's own on the features that it
    reads.

    Args:
        loaded (`Loaded`): the candidate.
        target (`TargetRows`): the rows.
        layers (`str`, *optional*, defaults to `"head"`): one of `LAYERS`.
        pooling (`str`, *optional*): `mean`, `cls` or `last`, of blocks.
        **extraction: options of [`extract_features`].

    Degenerate cases:
        Blocks of other widths than the last, as convolutional stages have, are left out of the average, and it is
        told.
    """
    model, notes = loaded.model, list(loaded.notes)
    tokens = target.kind == "token"
    base = is_base(model)
    blocks: list[str | int] = [] if layers == "head" and pooling is None else [-1] if layers == "head" else ["blocks"]
    taps = blocks if base and blocks else [*blocks, "head"]
    started = time.perf_counter()
    with _counted(model) as counted:
        read = extract_features(
            model,
            target.rows,
            loaded.processor,
            taps=taps,
            pooling="none" if tokens and blocks else pooling,
            **extraction,
        )
    seconds = time.perf_counter() - started
    names = target.data.label_names or None
    columns = [tap.column for tap in find_taps(model, taps)]
    if blocks and layers != "best":  # the input of the head was read for the head alone
        columns = [name for name in columns if name != HEAD_COLUMN]
    task: Any = "regression" if target.kind == "regression" else None
    found = {name: read_rows(read, column=name, task=task, label_names=names) for name in columns}
    if layers == "mean":
        found, note = _averaged(found)
        notes += note
    first = next(iter(found.values()))
    examples = np.arange(len(first.targets)) if first.groups is None else first.groups
    source, why = _source_logits(model, loaded.no_head, read, tokens)
    return CandidateRows(
        layers={name: rows.features for name, rows in found.items()},
        labels=first.targets.reshape(-1) if target.kind == "regression" else first.targets,
        examples=examples,
        source_logits=source,
        no_source=why,
        computed=min(counted[0], len(target)),
        seconds=seconds,
        notes=tuple(notes),
    )


def _averaged(found: Mapping[str, ProbeRows]) -> tuple[dict[str, ProbeRows], list[str]]:
    last = list(found.values())[-1]
    alike = {name: rows for name, rows in found.items() if rows.features.shape[1] == last.features.shape[1]}
    total = np.zeros(last.features.shape)
    for rows in alike.values():
        values = rows.features.astype(np.float64)
        deviation = values.std(0)
        total += (values - values.mean(0)) / np.where(deviation > 1e-6 * np.abs(values).max(initial=0), deviation, 1.0)
    mean = ProbeRows((total / len(alike)).astype(np.float32), last.targets, last.task, last.label_names, last.groups)
    if len(alike) == len(found):
        return {"mean": mean}, []
    told = f"Its layers differ in width: the average is that of {len(alike)} of {len(found)}, which are as wide as the"
    return {"mean": mean}, [f"{told} last."]


def _source_logits(model: nn.Module, no_head: str, read: Any, tokens: bool) -> tuple[np.ndarray | None, str]:
    if no_head:
        return None, no_head
    if not head_modules(model) or HEAD_COLUMN not in read.column_names:
        return None, "it has no head"
    config = getattr(model, "config", None)
    if getattr(config, "problem_type", None) == "multi_label_classification":
        return None, "its head answers each label by itself, which are no probabilities of classes"
    try:
        head = linear_head(model, None)
    except ValueError as error:
        return None, f"its head is not linear on the features ({str(error).split(':')[0]})"
    rows = read_rows(read, column=HEAD_COLUMN, task=None if tokens else _any_task(read))
    device = next(model.parameters()).device
    parts = []
    with torch.no_grad():
        for start in range(0, len(rows.features), _BLOCK):
            part = torch.from_numpy(rows.features[start : start + _BLOCK].astype(np.float32)).to(device)
            parts.append(head_logits(head, part).double().cpu().numpy())
    logits = np.concatenate(parts)
    if logits.shape[1] < 2:
        return None, "its head has one output, which tells no classes apart"
    return logits, ""


def _any_task(read: Any) -> Any:
    feature = read.features["labels"]
    return "regression" if "float" in str(getattr(feature, "dtype", "")) else None


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[int]]:
    """How many rows go through the model within."""
    found = [0]

    def count(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim()), None)
        found[0] += 0 if first is None else len(first)

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()
