"""The table of what trains when, and how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


_Row = tuple[str, int, tuple[str, ...]]


def summary_table(
    parts: Mapping[str, Sequence[str]],
    sizes: Mapping[str, int],
    phases: Sequence[tuple[str, Mapping[str, float | None]]],
) -> str:
    """
    Plain text table of what trains at which learning rate, by part and phase.

    A cell shows the learning rate before the scheduler's factor, as a range if the part is in groups of different
    rates; the share of the part's parameters in brackets if not all train; `-` if none does. Neighbouring blocks with
    equal cells share a row.

    Args:
        parts (`Mapping[str, Sequence[str]]`): parameter names by part.
        sizes (`Mapping[str, int]`): number of elements by parameter name.
        phases (`Sequence[tuple[str, Mapping]]`): heading of each phase, and the rate of each parameter that trains in
        it
            (`None` where it is not known).

    Example:
        >>> parts = {"block.0": ["a"], "block.1": ["b"], "head": ["c"]}
        >>> phases = [("start", {"c": 1e-3}), ("step 9", {"b": 1e-4, "c": 1e-3})]
        >>> print(summary_table(parts, {"a": 50, "b": 50, "c": 10}, phases))
        part     parameters  start  step 9
        block.0          50      -       -
        block.1          50      -  0.0001
        head             10  0.001   0.001
        all             110   9.1%   54.5%
    """
    rows = []
    for part, names in parts.items():
        if names:
            cells = tuple(_cell(names, sizes, rates) for _, rates in phases)
            rows.append((part, sum(sizes[name] for name in names), cells))
    total = sum(size for _, size, _ in rows)
    shares = [sum(sizes[name] for name in rates) / max(total, 1) for _, rates in phases]
    lines = [("part", "parameters", *(heading for heading, _ in phases))]
    for group in _merged(rows):
        first, last = group[0][0], group[-1][0]
        label = first if first == last else f"{first}-{last.removeprefix('block.')}"
        lines.append((label, f"{sum(size for _, size, _ in group):,}", *group[0][2]))
    lines.append(("all", f"{total:,}", *(f"{share:.1%}" for share in shares)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def _merged(rows: Sequence[_Row]) -> list[list[_Row]]:
    groups: list[list[_Row]] = []
    for row in rows:
        before = groups[-1][-1] if groups else None
        if before and before[0].startswith("block.") and row[0].startswith("block.") and before[2] == row[2]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _cell(names: Sequence[str], sizes: Mapping[str, int], rates: Mapping[str, float | None]) -> str:
    training = [name for name in names if name in rates]
    if not training:
        return "-"
    known = {rate for name in training if (rate := rates[name]) is not None}
    text = "..".join(f"{rate:.4g}" for rate in sorted({min(known), max(known)})) if known else "trains"
    size = sum(sizes[name] for name in names)
    share = sum(sizes[name] for name in training) / max(size, 1)
    return text if len(training) == len(names) else f"{text} ({share:.0%})"
