"""The plot of a `LayerReport`: scores by layer, and how alike the layers are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.figures import new_figure, save_figure


if TYPE_CHECKING:
    from hf_transfer.features.layers.layer_scores import LayerReport

__all__ = ["draw"]


def draw(report: LayerReport, target: Path) -> Path:
    """
    Draw a report into a file, which appears whole or not at all.

    Args:
        report (`LayerReport`): what to draw.
        target (`Path`): the file; its suffix is the format, PNG without one.

    Raises:
        ImportError: without matplotlib.
    """
    figure = new_figure(10, 4.2, doing="LayerReport.plot", instead="`table()` and `to_dict()` hold the numbers")
    left, right = figure.subplots(1, 2)
    _scores(report, left)
    if report.matrix is not None:
        _matrix(report, figure, right)
    else:
        _similarity(report, right)
    return save_figure(figure, target)


def _ticks(report: LayerReport) -> tuple[list[int], list[str]]:
    """Places and names of the layers to label: as many as there is room for, the last among them."""
    names = [layer.name.removeprefix("block.") for layer in report.layers]
    step = -(-len(names) // 14)
    places = [place for place in range(0, len(names) - 1, step) if len(names) - 1 - place >= step]
    places.append(len(names) - 1)
    return places, [names[place] for place in places]


def _scores(report: LayerReport, axes: Any) -> None:
    places = np.arange(len(report.layers))
    earlier = [(place, layer) for place, layer in enumerate(report.layers) if layer.before is not None]
    if earlier:
        axes.errorbar(
            [place for place, _ in earlier],
            [layer.before for _, layer in earlier],
            [layer.before_error for _, layer in earlier],
            color="0.6",
            marker="s",
            capsize=3,
            label="before",
        )
    axes.errorbar(
        places,
        [layer.score for layer in report.layers],
        [layer.error for layer in report.layers],
        color="C0",
        marker="o",
        capsize=3,
        label="after" if earlier else report.metric,
    )
    best = report.layers.index(report.best)
    axes.plot(best, report.best.score, marker="o", color="C3", markersize=9, linestyle="", zorder=3, label="best")
    axes.set(xlabel="block", ylabel=f"{report.metric} of a {report.kind} probe", title="Which block transfers best")
    axes.set_xticks(*_ticks(report))
    axes.legend()


def _matrix(report: LayerReport, figure: Any, axes: Any) -> None:
    image = axes.imshow(np.asarray(report.matrix), vmin=0, vmax=1, cmap="viridis", origin="lower")
    axes.set_xticks(*_ticks(report))
    axes.set_yticks(*_ticks(report))
    axes.set(xlabel="block", ylabel="block", title="Linear CKA between blocks")
    figure.colorbar(image, ax=axes)


def _similarity(report: LayerReport, axes: Any) -> None:
    known = [(place, layer.cka) for place, layer in enumerate(report.layers) if layer.cka is not None]
    axes.plot([place for place, _ in known], [cka for _, cka in known], color="C0", marker="o")
    axes.set(xlabel="block", ylabel="CKA", title="Linear CKA with the same block before", ylim=(-0.05, 1.05))
    axes.set_xticks(*_ticks(report))
