"""The plot of a `LayerReport`: scores by layer, and how alike the layers are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np


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
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "`LayerReport.plot` needs matplotlib, which is not installed: nothing can be drawn. Run `pip install "
            '"hf-transfer-learning[recipes]"`; `table()` and `to_dict()` hold the numbers.'
        ) from error
    # not `pyplot`: it keeps figures and chooses a backend for the whole process
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _scores(report, left)
    if report.matrix is not None:
        _matrix(report, figure, right)
    else:
        _similarity(report, right)
    target.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, so that renaming cannot cross file systems; every writer has a name of its own
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        figure.savefig(unfinished, format=target.suffix.removeprefix(".") or "png", dpi=120)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


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
