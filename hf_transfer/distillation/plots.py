"""The figure of a distillation: scores of teacher and student, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_transfer.compare.results import Cell
from hf_transfer.compare.tables import scores_of
from hf_transfer.distillation.measuring import Cost
from hf_transfer.distillation.methods import ALONE, TEACHER
from hf_transfer.distillation.report import judged_by
from hf_transfer.figures import new_figure, save_figure
from hf_transfer.repeats import summarise


__all__ = ["plot_distillation"]


def plot_distillation(
    teacher: Cell, cells: Sequence[Cell], costs: Mapping[str, Cost], metric: str, path: str | Path
) -> Path:
    """
    Draw the score of the student by every method with its 95% interval, between the student alone and the teacher;
    and the latency of both, where it was measured.

    Args:
        teacher (`Cell`): its scores.
        cells (`Sequence[Cell]`): finished runs of the student.
        costs (`Mapping[str, Cost]`): of teacher and student; may be empty.
        metric (`str`): what is scored, such as `accuracy`.
        path (`str` or path): the file; its suffix is the format.

    Raises:
        ImportError: without matplotlib.
    """
    name = judged_by(cells, metric)
    methods = [method for method in dict.fromkeys(cell.method for cell in cells)][::-1]  # the first on top
    figure = new_figure(
        6 + 3 * bool(costs),
        1.4 + 0.45 * len(methods),
        doing="plot_distillation",
        instead="the tables hold the numbers",
    )
    axes = figure.subplots(1, 1 + bool(costs), squeeze=False, width_ratios=[2, 1] if costs else None)[0]
    shown = [(place, scores_of(cells, method, name)) for place, method in enumerate(methods)]
    found = [(place, summarise(scores)) for place, scores in shown if scores]
    axes[0].errorbar(
        [summary.mean for _, summary in found],
        [place for place, _ in found],
        xerr=[summary.half_width or 0 for _, summary in found],
        fmt="o",
        capsize=3,
    )
    lines = {TEACHER: teacher.scores.get(name)}
    alone = scores_of(cells, ALONE, name)
    lines[ALONE] = summarise(alone).mean if alone else None
    for (label, value), style in zip(lines.items(), ("-", ":"), strict=True):
        if value is not None:
            axes[0].axvline(value, linewidth=0.8, linestyle=style, color="black", label=label)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_xlabel(name.replace("eval_", "validation ").replace("_", " "))
    if axes[0].get_legend_handles_labels()[0]:  # matplotlib warns of a legend without entries
        axes[0].legend(frameon=False, fontsize="small")
    if costs:
        axes[1].barh(list(costs)[::-1], [cost.latency_ms for cost in costs.values()][::-1], height=0.5)
        axes[1].set_xlabel("latency of one row (ms)")
    return save_figure(figure, path)
