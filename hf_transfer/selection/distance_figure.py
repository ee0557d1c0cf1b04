"""The figure of a distance between domains."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_transfer.diagnostics.plot import FORMATS, legend_handles, scatter
from hf_transfer.figures import new_figure, save_figure


if TYPE_CHECKING:
    from hf_transfer.selection.distance import DomainDistance

__all__ = ["draw_distances"]


def draw_distances(distance: DomainDistance, path: str | os.PathLike[str]) -> Path:
    """
    Draw both domains in two dimensions, and each distance as a bar on an axis of its own, from 0, with what 0 means.

    A dashed line is what equal domains give: for the MMD what 95% of the permutations stay below, for the Frechet
    distance the mean of random divisions of the rows.

    Args:
        distance ([`DomainDistance`]): with its projection.
        path (`str` or `os.PathLike`): the file; its suffix is the format, PNG without one.

    Raises:
        ImportError: without matplotlib.
        ValueError: if the suffix is no format that is written here.
    """
    kind = Path(path).suffix.removeprefix(".").lower() or "png"
    if kind not in FORMATS:
        raise ValueError(
            f"The suffix `.{kind}` is no format that is written here: nothing could be read back. Name the file "
            f"{', '.join(f'*.{name}' for name in FORMATS)}."
        )
    assert distance.projection is not None  # `plot` saw to it
    figure = new_figure(10.5, 4.6, doing="DomainDistance.plot", instead="`print(distance)` shows the numbers")
    bars = _bars(distance)
    grid = figure.add_gridspec(len(bars), 2, width_ratios=[1.1, 1])
    rows = figure.add_subplot(grid[:, 0])
    scatter(rows, *distance.projection, [])
    rows.set_title("both domains")
    rows.legend(handles=legend_handles([]), frameon=False, loc="best", fontsize="small")
    for number, bar in enumerate(bars):
        _draw(figure.add_subplot(grid[number, 1]), *bar)
    return save_figure(figure, path)


def _bars(distance: DomainDistance) -> list[tuple[str, float, str, float | None, float | None, Any]]:
    """Title, value, meaning of zero, upper end of the axis, what chance gives, interval."""
    shift, test = distance.a_distance, distance.mmd
    found: list[Any] = [
        ("proxy A-distance", shift.distance, "0: not told apart, 2: always told apart", 2.05, None, shift.interval),
        (f"MMD$^2$ (p = {test.p_value:.3g})", test.mmd, "0: equal distributions", None, test.quantile, None),
        ("Frechet distance", distance.frechet, "0: equal mean and covariance", None, distance.frechet_by_chance, None),
    ]
    if distance.task is not None:
        found.append(
            (
                "task embedding distance",
                distance.task,
                "0: features inform both alike, 1: none in common",
                1.0,
                None,
                None,
            )
        )
    return found


def _draw(
    axes: Any, title: str, value: float, zero: str, end: float | None, chance: float | None, interval: Any
) -> None:
    axes.barh([0], [value], height=0.5, color="0.45")
    if interval is not None:
        low, high = interval
        axes.errorbar(
            [value],
            [0],
            xerr=[[max(value - low, 0.0)], [max(high - value, 0.0)]],
            fmt="none",
            ecolor="black",
            capsize=3,
        )
    if chance is not None:
        axes.axvline(chance, color="black", linestyle="--", linewidth=0.9)
        zero += "; dashed: chance"
    limit = end or 1.15 * max(value, chance or 0.0, 0.0) or 1.0
    axes.set_xlim(min(0.0, 1.15 * value), limit)
    axes.set_ylim(-0.5, 0.5)
    axes.set_yticks([])
    axes.set_title(f"{title}: {value:.3g}", fontsize="medium", loc="left")
    axes.set_xlabel(zero, fontsize="small")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.axvline(0.0, color="black", linewidth=0.8)
