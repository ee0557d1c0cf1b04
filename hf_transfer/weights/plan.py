"""What a transfer will do with each tensor of a model: decided by names and shapes, before anything is read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer._blocks import ancestors, bare_name
from hf_transfer.anatomy import anatomy
from hf_transfer.weights.naming import Candidate
from hf_transfer.weights.report import TransferEntry, TransferReport
from hf_transfer.weights.resizing import Resizing, find_resizing
from hf_transfer.weights.slots import Slot
from hf_transfer.weights.source import Source


__all__ = ["Plan", "find_parts"]

MISFIT = "another shape"
_BESIDE_A_WEIGHT = frozenset({"bias", "running_mean", "running_var", "num_batches_tracked"})
ABSENT = "not in the checkpoint"
"""Reason of a tensor for which the checkpoint has no counterpart."""


class Plan:
    """What to do with each tensor of a model, decided by names and shapes alone."""

    def __init__(
        self,
        base: nn.Module,
        source: Source,
        parts: dict[str, str],
        blocks: int | None,
        head: bool | None,
        resize: Collection[str],
    ):
        self._base, self._source, self._parts = base, source, parts
        self._blocks, self._resize = blocks, resize
        self._head, self._why_head = _head_decision(base, source, head)
        self._work: list[tuple[Slot, Candidate, Resizing | None]] = []
        self.report = TransferReport(source.title)

    def fill(self, places: dict[str, Slot], chosen: dict[str, Candidate]) -> None:
        """Decide on every tensor of the model, given what the checkpoint has for it."""
        decided = {name: self._decide(slot, chosen.get(name)) for name, slot in places.items()}
        for name, slot in places.items():
            kind, reason, resizing = decided[name]
            holder, _, key = name.rpartition(".")
            weight = decided.get(f"{holder}.weight", ("", "", None))
            if kind != "skipped" and key in _BESIDE_A_WEIGHT and weight[1].startswith(MISFIT):
                kind, reason = "skipped", f"the weight beside it has {MISFIT}"  # it was fitted to those numbers
            candidate = chosen.get(name)
            sources = "" if candidate is None else ", ".join(candidate.sources)
            part = self._parts.get(name, "")
            entry = TransferEntry(name, sources, slot.shape, reason, part, slot.is_parameter)
            getattr(self.report, kind).append(entry)
            if kind != "skipped" and candidate is not None:
                self._work.append((slot, candidate, resizing))

    def _decide(self, slot: Slot, candidate: Candidate | None) -> tuple[str, str, Resizing | None]:
        part = self._parts.get(slot.name, "")
        if self._blocks is not None and not _within(part, self._blocks):
            return "skipped", f"not in the embeddings or the first {self._blocks} blocks", None
        if candidate is None:
            return "skipped", ABSENT, None
        if not slot.tensor.is_floating_point() and slot.is_parameter:
            return "skipped", f"kept quantised ({slot.tensor.dtype})", None
        if candidate.shape != slot.shape:
            resizing = find_resizing(
                self._base, slot.name, slot.tensor, candidate.shape, self._source.settings, self._resize
            )
            if resizing is not None:
                return "resized", resizing.reason, resizing
            return "skipped", f"{MISFIT}: {candidate.shape} in the checkpoint, {slot.shape} here", None
        if part == "head":
            return ("copied" if self._head else "skipped"), self._why_head, None
        return "copied", candidate.how, None

    def targets(self) -> list[Slot]:
        """The tensors that will be written."""
        return [slot for slot, _, _ in self._work]

    def values(self) -> dict[str, Tensor]:
        """The new values, read and computed."""
        names = [candidate.sources[0] for _, candidate, _ in self._work if candidate.tensor is None]
        read = self._source.read(names)
        written = {slot.tensor.data_ptr() for slot in self.targets()}
        values: dict[str, Tensor] = {}
        with torch.no_grad():
            for slot, candidate, resizing in self._work:
                value = read[candidate.sources[0]] if candidate.tensor is None else candidate.tensor
                if value.data_ptr() in written and value.data_ptr() != slot.tensor.data_ptr():
                    value = value.clone()  # another tensor of this very model, which may be written first
                values[slot.name] = value if resizing is None else resizing.apply(value, slot.tensor)
        return values


def _within(part: str, blocks: int) -> bool:
    return part == "embeddings" or (part.startswith("block.") and int(part.removeprefix("block.")) < blocks)


def find_parts(base: nn.Module, places: dict[str, Slot], blocks: int | None) -> dict[str, str]:
    """The part of every tensor; only the head where a model that is no classifier has no anatomy."""
    try:
        found = anatomy(base)
    except ValueError:
        if blocks is not None:
            raise
        prefix = getattr(base, "base_model_prefix", "")
        whole = not prefix or getattr(base, prefix, base) is base  # a base model, or not from transformers
        return {} if whole else {name: "head" for name in places if not name.startswith(f"{prefix}.")}
    if blocks is not None and blocks > len(found.blocks):
        raise ValueError(
            f"blocks={blocks}, but the model has {len(found.blocks)} blocks: there is no block to copy the last ones "
            f"into. Give at most {len(found.blocks)}, or None for everything."
        )
    parameters = {bare_name(full): part for full, part in found.part_of().items()}
    modules = {bare_name(module): part for part in found.parts() for module in found.modules(part)}

    def part_of(name: str) -> str:
        above = (modules[holder] for holder in reversed(ancestors(name)) if holder in modules)
        return parameters.get(name) or next(above, "")

    return {name: part_of(name) for name in places}


def _head_decision(base: nn.Module, source: Source, head: bool | None) -> tuple[bool, str]:
    """Whether to copy a head that fits, and why."""
    if head is not None:
        return head, f"head={head}"
    config: Any = getattr(base, "config", None)
    here = None if config is None else tuple(config.id2label[key] for key in sorted(config.id2label))
    there = source.labels
    if there is None or here is None:
        return False, "nothing tells the class names of the checkpoint; head=True copies it"
    if there == here:
        placeholder = all(label == f"LABEL_{number}" for number, label in enumerate(here))
        return True, "same class names" + (" (placeholders)" if placeholder else "")
    different = [number for number, pair in enumerate(zip(there, here, strict=False)) if pair[0] != pair[1]]
    if not different:
        return False, f"{len(there)} classes in the checkpoint, {len(here)} here; head=True copies it"
    first = different[0]
    return False, (
        f"other class names: output {first} is `{there[first]}` in the checkpoint, `{here[first]}` here; head=True "
        "copies it"
    )
