"""The tables of a comparison: what every method scores, and what every validator would have chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hf_transfer.compare.results import Cell
from hf_transfer.compare.tables import difference, markdown_table, scores_of, told, told_difference
from hf_transfer.diagnostics.health import ONE_CLASS
from hf_transfer.domain_adaptation.methods import SOURCE_ONLY, TARGET_ORACLE
from hf_transfer.domain_adaptation.selection import Choice
from hf_transfer.repeats import summarise


__all__ = ["choice_table", "method_table", "remarks", "report"]


def method_table(cells: Sequence[Cell], metric: str) -> str:
    """
    A Markdown table: for each method the source and target score, and the difference to the source-only run by seed,
    in bold where its 95% interval excludes zero.

    Args:
        cells (`Sequence[Cell]`): finished runs.
        metric (`str`): what is scored, such as `accuracy`.

    Example:
        >>> runs = [
        ...     Cell(method, seed, "", "", {"source_accuracy": 0.9, "target_accuracy": score + seed / 100})
        ...     for method, score in (("source_only", 0.5), ("dann", 0.7))
        ...     for seed in (0, 1)
        ... ]
        >>> print(method_table(runs, "accuracy"))
        | method | source accuracy | target accuracy | against source_only | seeds |
        |---|---|---|---|---|
        | source_only | 0.900 (0.900 to 0.900) | 0.505 (0.441 to 0.569) | | 2 |
        | dann | 0.900 (0.900 to 0.900) | 0.705 (0.641 to 0.769) | **+0.200** (0.200 to 0.200) | 2 |
    """
    methods = list(dict.fromkeys(cell.method for cell in cells))
    ways = [way for way in ("source", "target") if any(f"{way}_{metric}" in cell.scores for cell in cells)]
    judged = ways[-1:]  # the target, where it has labels
    against = SOURCE_ONLY in methods and bool(judged)
    distance = any("a_distance" in cell.diagnostics for cell in cells)
    header = ["method", *(f"{way} {metric}" for way in ways)]
    header += [f"against {SOURCE_ONLY}"] if against else []
    header += ["A-distance before", "after"] if distance else []
    rows = []
    for method in methods:
        row = [method, *(told(scores_of(cells, method, f"{way}_{metric}")) for way in ways)]
        row += (
            [told_difference(difference(cells, method, f"{judged[0]}_{metric}", against=SOURCE_ONLY))]
            if against
            else []
        )
        if distance:
            row += [_mean(scores_of(cells, method, name)) for name in ("a_distance_before", "a_distance")]
        rows.append([*row, str(sum(cell.method == method for cell in cells))])
    return markdown_table([*header, "seeds"], rows)


def remarks(cells: Sequence[Cell], metric: str) -> list[str]:
    """What the table does not say aloud: losses against source only, runs that diverged, seeds that are too few."""
    name = f"target_{metric}"
    found = []
    for method in dict.fromkeys(cell.method for cell in cells):
        gain = difference(cells, method, name, against=SOURCE_ONLY)
        if gain is not None and gain.mean < 0:
            sure = "more than chance explains" if gain.excludes_zero else "within what other seeds may change"
            found.append(
                f"{method} loses to {SOURCE_ONLY} on the target by {-gain.mean:.3f}"
                + (f": {sure}." if gain.interval is not None else ".")
            )
        if gain is not None and method != TARGET_ORACLE and gain.mean >= 0 and gain.excludes_zero is False:
            found.append(f"{method} is not told from {SOURCE_ONLY} by these seeds.")
        broken = [cell.seed for cell in cells if cell.method == method and None in cell.scores.values()]
        if broken:
            found.append(f"{method} diverged with seed {', '.join(map(str, broken))}: a score is not finite.")
        collapsed = [cell.seed for cell in cells if cell.method == method and _has_collapsed(cell)]
        if collapsed:
            found.append(
                f"{method} predicts one class almost everywhere in the target, and not in the source, with seed "
                f"{', '.join(map(str, collapsed))}: it has collapsed. `entropy` and `snd` reward that."
            )
    if not any(name in cell.scores for cell in cells):
        found.append("The target has no labels to score: whether a method helps there is not known.")
    if len({cell.seed for cell in cells}) == 1:
        found.append("One seed says nothing about the spread: repeat with `--seeds 3` or more.")
    return found


def _has_collapsed(cell: Cell) -> bool:
    source, target = (cell.diagnostics.get(f"{way}_largest_share") or 0.0 for way in ("source", "target"))
    return target > ONE_CLASS >= source


def choice_table(choices: Sequence[Choice], metric: str) -> str:
    """A Markdown table: the method that each validator chooses by seed and overall, with its regret."""
    seeds = list(dict.fromkeys(choice.seed for choice in choices))
    several = len(seeds) > 2  # `None`, all seeds together, is one of them
    shown = seeds if several else seeds[-1:]
    by = {(choice.by, choice.seed): choice for choice in choices}
    header = ["chosen by", *("all seeds" if seed is None else f"seed {seed}" for seed in shown)]
    rows = []
    for judge in dict.fromkeys(choice.by for choice in choices):
        found = [by.get((judge, seed)) for seed in shown]
        rows.append([judge, *("" if choice is None else _chosen(choice) for choice in found)])
    return f"Target {metric} of the choice, and regret: what the best one has more.\n\n{markdown_table(header, rows)}"


def report(cells: Sequence[Cell], choices: Sequence[Choice], metric: str, kept: Cell, by: str) -> str:
    """The whole report in Markdown."""
    parts = ["# Domain adaptation", method_table(cells, metric)]
    parts += ["Mean over seeds and its 95% interval (Student); bold: the interval of the difference excludes zero."]
    said = remarks(cells, metric)
    parts += ["\n".join(f"- {remark}" for remark in said)] if said else []
    if len({choice.method for choice in choices} | {cell.method for cell in cells}) > 1 and choices:
        parts += ["## Chosen without labels of the target, beside the oracle", choice_table(choices, metric)]
    parts += [f"Kept: {kept.method} with seed {kept.seed}{by}."]
    return "\n\n".join(parts) + "\n"


def _chosen(choice: Choice) -> str:
    if choice.score is None:
        return choice.method
    return f"{choice.method} {choice.score:.3f} (regret {choice.regret or 0:.3f})"


def _mean(scores: Mapping[int, float]) -> str:
    return f"{summarise(scores).mean:.2f}" if scores else ""
