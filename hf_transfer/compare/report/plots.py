"""The figures of a comparison: scores, costs, the learning curve, and what the recommended strategy does."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from hf_transfer.compare.answer import Estimate, TableRow
from hf_transfer.compare.report.class_plots import plot_confusion, plot_features
from hf_transfer.compare.report.drawing import (
    CHOSEN,
    FONT,
    INK,
    LINE,
    MARKERS,
    MUTED,
    OTHER,
    SERIES,
    as_is,
    canvas,
    legend_below,
    place_labels,
    styled,
)
from hf_transfer.compare.report.words import metric_name, score


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hf_transfer.compare.outcome import ComparisonResults

LABELLED = 10
"""Most points of the figure of costs that all have a name; of more, those that nothing cheaper beats."""

__all__ = [
    "plot_accuracy",
    "plot_confusion",
    "plot_cost",
    "plot_features",
    "plot_learning_curve",
    "title_of",
    "worth_it",
]


def title_of(results: ComparisonResults, strategy: str) -> str:
    """What a strategy is called in a report."""
    return str(results.strategies.get(strategy, {}).get("title") or strategy)


def plot_accuracy(results: ComparisonResults) -> Figure:
    """
    The scores of all strategies with their intervals, on the rows that validate and on the test rows.

    Args:
        results (`ComparisonResults`): of a comparison.

    Raises:
        ImportError: without matplotlib.
    """
    models = list(dict.fromkeys(row.model for row in results.answer.rows))
    lines: list[TableRow | str] = []
    for model in models:
        lines += [model] if len(models) > 1 else []
        lines += [row for row in results.answer.rows if row.model == model]
    figure = canvas(1.15 + 0.3 * len(lines), "plot_accuracy")
    axes = styled(figure.subplots(), grid="x")
    best, left = results.best(), _lowest(results)
    for place, line in enumerate(lines):
        if isinstance(line, str):
            continue
        colour = CHOSEN if line == best else MUTED if _baseline(results, line) else OTHER
        if line.validation is None:
            axes.text(left, place, line.status, color=MUTED, size=FONT - 1, style="italic", va="center")
            continue
        _dot(axes, line.validation, place - 0.12, colour, marker="o", size=6)
        if line.test is not None:
            _dot(axes, line.test, place + 0.2, colour, marker="D", size=4, hollow=True)
    axes.set_yticks(
        range(len(lines)),
        [as_is(line, 34) if isinstance(line, str) else as_is(title_of(results, line.strategy)) for line in lines],
    )
    for line, label in zip(lines, axes.get_yticklabels(), strict=True):
        if line == best:
            label.set(weight="bold", color=CHOSEN)
        elif isinstance(line, str):
            label.set(weight="bold")
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlabel(metric_name(results.metric))
    shown = [_key("o", "validation, with its interval"), _key("D", "test, took no part", hollow=True)]
    tested = any(row.test is not None for row in results.answer.rows)
    legend_below(figure, shown if tested else shown[:1])
    return figure


def plot_cost(results: ComparisonResults) -> Figure:
    """
    The score of every strategy against its training time. What is not trained is a line across.

    Args:
        results (`ComparisonResults`): of a comparison.

    Raises:
        ImportError: without matplotlib.
    """
    rows = [row for row in results.answer.rows if row.validation is not None]
    models = list(dict.fromkeys(row.model for row in rows))
    trained = [(row, row.costs.seconds, row.validation.mean) for row in rows if row.validation and row.costs.seconds]
    figure = canvas(3.5, "plot_cost")
    axes = styled(figure.subplots())
    free = {row.strategy: row.validation.mean for row in rows if row.validation and not row.costs.seconds}
    heights = [mean for row, _, mean in trained if not _baseline(results, row)]
    heights = heights or [mean for _, _, mean in trained] + list(free.values()) or [0.0, 1.0]
    margin = 0.15 * (max(heights) - min(heights)) or 0.05
    low, high = min(heights) - 2 * margin, max(heights) + margin  # far below are baselines, which need no place
    below: dict[str, list[str]] = {}
    for row in rows:
        if row.validation and row.validation.mean < low:
            below.setdefault(title_of(results, row.strategy), []).append(score(row.validation.mean))
    trained = [own for own in trained if own[2] >= low]
    free = {strategy: mean for strategy, mean in free.items() if mean >= low}
    if below:
        told = "; ".join(f"{name} {', '.join(means)}" for name, means in below.items())
        lines = [as_is(line, 70) for line in textwrap.wrap(f"below: {told}", 58)]
        axes.text(0.02, 0.03, "\n".join(lines), transform=axes.transAxes, size=FONT - 1, color=MUTED)
    times = [seconds for _, seconds, _ in trained] or [1.0]
    first, last = math.log10(min(times)) - 0.25, math.log10(max(times)) + 0.25
    axes.set(xscale="log", xlim=(10**first, 10**last), ylim=(low, high))
    axes.set(xlabel="training time in seconds", ylabel=metric_name(results.metric))
    _plain_ticks(axes, 10**first, 10**last)
    for strategy, mean in free.items():
        axes.axhline(mean, color=MUTED, linewidth=1, linestyle=":")
        label = as_is(f"{title_of(results, strategy)}, not trained")
        axes.annotate(label, (0.98, mean), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                      ha="right", size=FONT - 1, color=MUTED)  # fmt: skip
    best = results.best()
    for row, seconds, mean in trained:
        colour = CHOSEN if row == best else MUTED if _baseline(results, row) else OTHER
        marker = MARKERS[models.index(row.model) % len(MARKERS)]
        axes.plot([seconds], [mean], marker=marker, color=colour, markersize=7, linestyle="none")
    wide, high_points = 285.0, 190.0  # of the axes, about: what the labels of both axes leave
    named = sorted(_named(results, trained), key=lambda item: (item[0] != best, -item[2]))
    spots = {
        (row.model, row.strategy): (
            (math.log10(seconds) - first) / (last - first) * wide,
            (mean - low) / (high - low) * high_points,
        )
        for row, seconds, mean in trained
    }
    places = [spots.pop((row.model, row.strategy)) for row, _, _ in named]
    texts = [as_is(title_of(results, row.strategy)) for row, _, _ in named]
    offsets = place_labels(places, texts, wide=wide, high=high_points, others=list(spots.values()))
    for (row, seconds, mean), text, offset in zip(named, texts, offsets, strict=True):
        far = {"arrowprops": {"arrowstyle": "-", "color": LINE, "linewidth": 0.8}} if abs(offset[1]) > 12 else {}
        axes.annotate(text, (seconds, mean), offset, textcoords="offset points", va="center", size=FONT - 1,
                      color=INK, weight="bold" if row == best else "normal", **far)  # fmt: skip
    if len(models) > 1:
        legend_below(
            figure,
            [_key(MARKERS[n % len(MARKERS)], as_is(name, 34)) for n, name in enumerate(models)],
            columns=1 if max(map(len, models)) > 20 else 2,
        )
    return figure


def plot_learning_curve(results: ComparisonResults) -> Figure:
    """
    The scores of the leaders by the number of labelled rows.

    Args:
        results (`ComparisonResults`): of a comparison.

    Raises:
        ImportError: without matplotlib.
        ValueError: if no learning curve was drawn up.
    """
    points = results.answer.curve
    if not points:
        raise ValueError(
            "This comparison has no learning curve: there are no scores with fewer labels to draw. Run it with "
            "`curve=True`, and with more time if the budget cut it."
        )
    figure = canvas(3.3, "plot_learning_curve")
    axes = styled(figure.subplots())
    several = len({point.model for point in points}) > 1
    best = results.best()
    chosen = None if best is None else (best.model, best.strategy)
    leaders = list(dict.fromkeys((point.model, point.strategy) for point in points))
    others = [colour for colour in SERIES if colour != CHOSEN]
    for place, leader in enumerate(sorted(leaders, key=lambda own: own != chosen)):
        own = sorted((p for p in points if (p.model, p.strategy) == leader), key=lambda point: point.rows)
        colour = CHOSEN if leader == chosen else others[place % len(others)]
        label = title_of(results, leader[1]) + (f", {leader[0]}" if several else "")
        rows = [point.rows for point in own]
        axes.plot(rows, [point.score.mean for point in own], color=colour, marker=MARKERS[place % len(MARKERS)],
                  markersize=6, linewidth=2, label=as_is(label, 50))  # fmt: skip
        sure = [point for point in own if point.score.low is not None and point.score.high is not None]
        ends = [[point.score.low for point in sure], [point.score.high for point in sure]]
        axes.fill_between([point.rows for point in sure], *ends, color=colour, alpha=0.14, linewidth=0)
    axes.set_xticks(sorted({point.rows for point in points}))
    axes.set(xlabel="labelled training rows", ylabel=metric_name(results.metric), xlim=(0, None))
    legend_below(figure, columns=1 if several else 2)
    return figure


def worth_it(rows: list[tuple[TableRow, float, float]]) -> list[tuple[TableRow, float, float]]:
    """Of rows with seconds and score those than which nothing cheaper is as good."""
    return [own for own in rows if not any(s <= own[1] and m >= own[2] and (s, m) != own[1:] for _, s, m in rows)]


def _named(results: ComparisonResults, trained: list[tuple[TableRow, float, float]]) -> list[Any]:
    if len(trained) <= LABELLED:
        return trained
    best, good = results.best(), worth_it(trained)
    return [own for own in trained if own in good or own[0] == best or _baseline(results, own[0])]


def _baseline(results: ComparisonResults, row: TableRow) -> bool:
    return bool(results.strategies.get(row.strategy, {}).get("baseline"))


def _dot(
    axes: Any, at: Estimate, place: float, colour: str, *, marker: str, size: float, hollow: bool = False
) -> None:
    if at.low is not None and at.high is not None:
        axes.plot([at.low, at.high], [place, place], color=colour, linewidth=1 if hollow else 2, alpha=0.7)
    fill = {"markerfacecolor": "none"} if hollow else {}
    axes.plot([at.mean], [place], marker=marker, color=colour, markersize=size, linestyle="none", **fill)


def _key(marker: str, label: str, *, hollow: bool = False) -> Any:
    from matplotlib.lines import Line2D

    fill = "none" if hollow else MUTED
    return Line2D([], [], marker=marker, color=MUTED, markerfacecolor=fill, linestyle="none", label=label)


def _lowest(results: ComparisonResults) -> float:
    found = [row.validation for row in results.answer.rows if row.validation is not None]
    return min((own.mean if own.low is None else own.low for own in found), default=0.0)


def _plain_ticks(axes: Any, low: float, high: float) -> None:
    """1, 2, 5, 10 and so on, in place of powers of ten that a short range does not hold."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.2 else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps]
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:,.10g}" for tick in shown])
    axes.set_xticks([], minor=True)
