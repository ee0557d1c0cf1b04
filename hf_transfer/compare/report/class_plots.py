"""Figures of the recommended strategy: what it takes for what, and what it does to the features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hf_transfer.compare.report.drawing import FONT, INK, MARKERS, MUTED, SERIES, as_is, canvas, legend_below, styled


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hf_transfer.compare.outcome import ComparisonResults

COUNTED, NAMED = 12, 120
"""Most classes whose counts, and whose names, stand in the figure."""
DARK = 0.65
"""From this share on a cell is dark, and its count is white."""
COLOURED = 7
"""Most classes that have a colour of their own."""

__all__ = ["COUNTED", "plot_confusion", "plot_features"]


def plot_confusion(results: ComparisonResults) -> Figure:
    """
    What the recommended strategy takes for what: a line for each true class, dark where many of its rows are.

    Args:
        results (`ComparisonResults`): of a comparison.

    Raises:
        ImportError: without matplotlib.
        ValueError: if there are no classes, or nothing was recommended.
    """
    if not results.confusion:
        raise ValueError(
            "This comparison has no confusion matrix: there are no classes, or no strategy was recommended. Read "
            "`answer.rows`."
        )
    counts = np.asarray(results.confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    font = FONT if classes <= COUNTED else 6.5
    side = min(11.0, max(4.2, 2.0 + 0.125 * classes)) if classes > COUNTED else 2.0 + 0.36 * classes
    figure = canvas(min(side, 4.6) if classes <= COUNTED else side, "plot_confusion", width=max(5.0, side))
    axes = styled(figure.subplots(), grid=None)
    axes.imshow(shares, cmap=_blues(), vmin=0, vmax=1, interpolation="nearest", aspect="equal")
    if classes <= COUNTED:
        for (line, column), number in np.ndenumerate(counts):
            if number:
                colour = "#ffffff" if shares[line, column] >= DARK else INK
                axes.text(column, line, f"{number:.0f}", ha="center", va="center", size=font, color=colour)
    if classes <= NAMED:
        names = [as_is(name, 20) for name in results.label_names]
        upright = classes <= 3
        axes.set_yticks(range(classes), names)
        axes.set_xticks(range(classes), names, rotation=0 if upright else 90)
        axes.tick_params(labelsize=font)
    axes.set(xlabel="taken for", ylabel="true class")
    if classes > COUNTED:
        axes.set_xticks(np.arange(-0.5, classes), minor=True)
        axes.set_yticks(np.arange(-0.5, classes), minor=True)
        axes.grid(True, which="minor", color="#e9ecf0", linewidth=0.4)
        axes.tick_params(which="minor", length=0)
    return figure


def plot_features(results: ComparisonResults) -> Figure:
    """
    Features of validation rows in two dimensions, by the pretrained model and by the recommended strategy's. Of many
    classes, the largest have colours.

    Args:
        results (`ComparisonResults`): of a comparison.

    Raises:
        ImportError: without matplotlib.
        ValueError: if there is no map of features.
    """
    found = results.features
    if found is None:
        raise ValueError(
            "This comparison has no map of features: rows have no single class, or no strategy was recommended. Read "
            "`answer.rows`."
        )
    labels = np.asarray(found.labels)
    panels = [("pretrained", found.before)]
    panels += [] if found.after is None else [("after training", found.after)]
    figure = canvas(3.4, "plot_features")
    for axes, (title, places) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set(title=title, xticks=[], yticks=[])
        styled(axes, grid=None)
        points = np.asarray(places, dtype=np.float64).reshape(-1, 2)
        classes = [int(own) for own in np.argsort(-np.bincount(labels), kind="stable") if (labels == own).any()]
        many = len(classes) > COLOURED
        coloured = sorted(classes[: COLOURED - many])
        rest = ~np.isin(labels, coloured)
        if rest.any():
            axes.scatter(*points[rest].T, s=9, color=MUTED, alpha=0.3, linewidths=0, label="other classes")
        for place, own in enumerate(coloured):
            name = results.label_names[own] if own < len(results.label_names) else str(own)
            axes.scatter(*points[labels == own].T, s=16, color=SERIES[place], marker=MARKERS[place], alpha=0.75,
                         linewidths=0, label=as_is(name, 22))  # fmt: skip
    handles, names = figure.axes[0].get_legend_handles_labels()
    longest = max(map(len, names), default=0)
    legend_below(figure, handles, columns=4 if longest < 9 else 3 if longest < 13 else 2)
    return figure


def _blues():
    """From nothing to dark blue: the paper shows through where there are no rows."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("share", [(1, 1, 1, 1), "#9dbfe0", "#0b4a8f"])
