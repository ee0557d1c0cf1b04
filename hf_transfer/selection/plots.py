"""The figure of a ranking: held-out scores with their intervals, and the place of every candidate by every score."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_transfer.compare.report.drawing import (
    CHOSEN,
    FONT,
    INK,
    MUTED,
    OTHER,
    SERIES,
    as_is,
    legend_below,
    styled,
)
from hf_transfer.figures import new_figure, save_figure
from hf_transfer.selection.held_out import KNN, PROBE
from hf_transfer.selection.outcome import Outcome
from hf_transfer.selection.report import TITLES, shown_name


if TYPE_CHECKING:
    from hf_transfer.selection.ranking import SourceRanking

__all__ = ["places", "plot_ranking"]


def plot_ranking(ranking: SourceRanking, path: str | os.PathLike[str]) -> Path:
    """
    Draw a ranking into a file.

    On the left the linear probe and k-NN of every candidate with their 95% intervals, the recommended one in another
    colour, and those of the baselines as lines; on the right the place of every candidate by every score and by size.

    Args:
        ranking (`SourceRanking`): of at least one candidate with scores.
        path (`str` or `os.PathLike`): the file.

    Raises:
        ImportError: without matplotlib.
        ValueError: if no candidate has scores.
    """
    scored = [own for own in ranking.candidates if own.scored]
    if not scored:
        raise ValueError(
            "No candidate of this ranking has scores: there is nothing to draw. Correct what failed, which "
            "`ranking.report()` tells, and rank again."
        )
    columns = [*ranking.scores, "parameters"]
    figure = new_figure(
        6.2 + 0.42 * len(columns),
        1.9 + 0.36 * len(scored),
        doing="SourceRanking.plot",
        instead="`ranking.frame` holds the numbers",
    )
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(4.0, 0.42 * len(columns) + 0.6))
    _held_out(styled(left, grid="x"), ranking, scored)
    _places(right, ranking, scored, columns)
    legend_below(figure, columns=4)
    return save_figure(figure, path)


def places(ranking: SourceRanking, score: str) -> dict[str, int]:
    """
    The place of every candidate by a score, or by `parameters`, from 1 for the best or largest; equals share one.

    Candidates without the score are left out.
    """
    values = {}
    for own in ranking.candidates:
        size = None if own.cost is None else float(own.cost.parameters)
        value = size if score == "parameters" else own.value(score)
        if own.scored and value is not None:
            values[own.name] = value
    return {name: 1 + sum(other > value for other in values.values()) for name, value in values.items()}


def _held_out(axes: Any, ranking: SourceRanking, scored: list[Outcome]) -> None:
    best = None if ranking.recommendation is None else ranking.recommendation.name
    for score, shift, marker in ((PROBE, -0.13, "o"), (KNN, 0.13, "D")):
        for place, own in enumerate(scored):
            found = ranking.intervals[score].get(own.name)
            if found is None or found.value is None:
                continue
            colour = CHOSEN if own.name == best else OTHER
            if found.low is not None:
                axes.plot([found.low, found.high], [place + shift] * 2, color=colour, linewidth=1.4, zorder=2)
            axes.plot(
                [found.value],
                [place + shift],
                marker=marker,
                markersize=5,
                linestyle="none",
                color=colour,
                markerfacecolor=colour if score == PROBE else "white",
                zorder=3,
            )
        # in the colour of most: the recommended one has its own
        axes.plot(
            [],
            [],
            marker=marker,
            linestyle="none",
            markersize=5,
            color=OTHER,
            markerfacecolor=OTHER if score == PROBE else "white",
            label=TITLES[score],
        )
    for number, own in enumerate(ranking.baselines):
        value = own.value(PROBE)
        if value is not None:
            style = ("--", ":")[number % 2]
            axes.axvline(value, color=MUTED, linewidth=1.2, linestyle=style, label=own.name, zorder=1)
    axes.set_yticks(range(len(scored)), [as_is(shown_name(own.name)) for own in scored])
    axes.set_ylim(len(scored) - 0.5, -0.5)
    axes.set_xlabel(f"held-out {ranking.metric.replace('R2', 'R²')}")


def _places(axes: Any, ranking: SourceRanking, scored: list[Outcome], columns: list[str]) -> None:
    for column, score in enumerate(columns):
        found = places(ranking, score)
        for row, own in enumerate(scored):
            if own.name not in found:
                axes.text(column, row, "-", ha="center", va="center", color=MUTED, fontsize=FONT - 1)
                continue
            place = found[own.name]
            share = 1 - (place - 1) / max(len(scored) - 1, 1)
            axes.add_patch(_square(column, row, share))
            weight = "bold" if place == 1 else "normal"
            axes.text(column, row, str(place), ha="center", va="center", color=INK, fontsize=FONT - 1, weight=weight)
    titles = [*(TITLES[name] for name in columns[:-1]), "size"]
    axes.set_xticks(range(len(columns)), titles, rotation=60, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.tick_params(length=0, labelsize=FONT - 1, labelcolor=INK)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel("place by every score, 1 is the first", fontsize=FONT, color=MUTED)


def _square(column: int, row: int, share: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, facecolor=SERIES[2], alpha=0.12 + 0.5 * share)
