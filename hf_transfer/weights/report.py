"""`TransferReport`: what a transfer of parameters did, tensor by tensor."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


__all__ = ["TransferEntry", "TransferReport"]


class TransferEntry(NamedTuple):
    """
    What became of one tensor.

    Args:
        name (`str`): its name in the model; empty for a tensor of the checkpoint that has no place there.
        source (`str`): its name in the checkpoint; empty if it has none there.
        shape (`tuple[int, ...]`): its shape in the model, or in the checkpoint where it has no place in the model.
        reason (`str`): why.
        part (`str`): the part of the model: `embeddings`, `block.0`, ..., `neck`, `head`; empty if unknown.
        is_parameter (`bool`): whether it is a parameter of the model, not a buffer.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    reason: str
    part: str = ""
    is_parameter: bool = True


@dataclass
class TransferReport:
    """
    What a transfer did: every tensor of the model is in one of `copied`, `resized` and `skipped`; every tensor of the
    checkpoint in one of these or in `unused`. Prints as a table.

    Args:
        checkpoint (`str`): where the weights came from.
        copied (`list[TransferEntry]`): tensors that now have the values of the checkpoint.
        resized (`list[TransferEntry]`): tensors that were made from one of another size.
        skipped (`list[TransferEntry]`): tensors of the model that are as they were.
        unused (`list[TransferEntry]`): tensors of the checkpoint that went nowhere.

    Example:
        >>> report = TransferReport("a", copied=[TransferEntry("w", "w", (3, 2), "same name")])
        >>> report.skipped.append(TransferEntry("b", "", (2,), "not in the checkpoint"))
        >>> print(report)
        a: 6 of 8 parameters (75.0%); 1 tensors copied, 0 resized, 1 skipped, 0 unused
                 part  tensors  parameters  why
        copied               1           6  same name
        skipped              1           2  not in the checkpoint
    """

    checkpoint: str
    copied: list[TransferEntry] = field(default_factory=list)
    resized: list[TransferEntry] = field(default_factory=list)
    skipped: list[TransferEntry] = field(default_factory=list)
    unused: list[TransferEntry] = field(default_factory=list)

    @property
    def num_transferred(self) -> int:
        """Number of parameters of the model, buffers not counted, that now come from the checkpoint."""
        return _size([*self.copied, *self.resized])

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the model, buffers not counted and tied ones counted once."""
        return _size([*self.copied, *self.resized, *self.skipped])

    @property
    def coverage(self) -> float:
        """Share of the model's parameters that come from the checkpoint, in [0, 1]."""
        return self.num_transferred / max(self.num_parameters, 1)

    def __str__(self) -> str:
        counts = f"{len(self.copied)} tensors copied, {len(self.resized)} resized, {len(self.skipped)} skipped"
        lines = [
            f"{self.checkpoint}: {self.num_transferred:,} of {self.num_parameters:,} parameters "
            f"({100 * self.coverage:.1f}%); {counts}, {len(self.unused)} unused"
        ]
        rows = [("", "part", "tensors", "parameters", "why")]
        for kind in ("copied", "resized", "skipped", "unused"):
            for part, group, why in _rows(getattr(self, kind)):
                rows.append((kind, part, f"{len(group):,}", f"{_size(group):,}", why))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for kind, part, tensors, parameters, why in rows:
            lines.append(
                f"{kind:<{widths[0]}}  {part:<{widths[1]}}  {tensors:>{widths[2]}}  {parameters:>{widths[3]}}  {why}"
            )
        return "\n".join(lines)


def _size(entries: Iterable[TransferEntry]) -> int:
    return sum(math.prod(entry.shape) for entry in entries if entry.is_parameter)


def _rows(entries: Iterable[TransferEntry]) -> list[tuple[str, list[TransferEntry], str]]:
    """Part, entries and reason, one row for each part and kind of reason; consecutive blocks share a row."""
    groups: dict[tuple[str, str], list[TransferEntry]] = {}
    for entry in entries:
        groups.setdefault((entry.part, entry.reason.partition(":")[0]), []).append(entry)
    rows: list[tuple[str, str, list[TransferEntry]]] = []
    for (part, kind), group in groups.items():
        for place, (span, other, members) in enumerate(rows):
            if other == kind and (joined := _joined(span, part)):
                rows[place] = (joined, kind, [*members, *group])
                break
        else:
            rows.append((part, kind, group))
    return [(part, group, _why(kind, group)) for part, kind, group in rows]


def _joined(span: str, part: str) -> str | None:
    """The name of consecutive blocks, such as `block.0-3`, with the next one taken in."""
    blocks = re.fullmatch(r"block\.(\d+)(?:-(\d+))?", span)
    if blocks is None or part != f"block.{int(blocks[2] or blocks[1]) + 1}":
        return None
    return f"block.{blocks[1]}-{part.removeprefix('block.')}"


def _why(kind: str, group: list[TransferEntry]) -> str:
    if len({entry.reason for entry in group}) == 1:
        return group[0].reason
    return f"{kind}, such as {group[0].name or group[0].source}{group[0].reason[len(kind) :]}"
