"""The figures of a forecast comparison: error against data, error against horizon, and forecasts with history."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_transfer.figures import new_figure, save_figure
from hf_transfer.repeats import summarise


_INSTEAD = "comparison.md and all_results.json hold the numbers"
# the palette of Okabe and Ito: told apart also by who sees few colours
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")

__all__ = ["Panel", "plot_few_data", "plot_forecasts", "plot_horizon"]


@dataclass(frozen=True)
class Panel:
    """
    One window of one channel, in the units of the series.

    Args:
        title (`str`): above it.
        dates (`np.ndarray`): `(T + H,)` of history and forecast; numbers of rows for a series without dates.
        history (`np.ndarray`): `(T,)`, NaN where missing.
        truth (`np.ndarray`): `(H,)`, NaN where missing.
        forecasts (`Mapping[str, np.ndarray]`): `(H,)` by name.
    """

    title: str
    dates: np.ndarray
    history: np.ndarray
    truth: np.ndarray
    forecasts: Mapping[str, np.ndarray]


def plot_few_data(
    errors: Mapping[str, Mapping[float, Mapping[int, float]]],
    path: str | os.PathLike[str],
    *,
    baselines: Collection[str] = (),
) -> Path:
    """
    Draw the test error of every strategy against the share of the training rows, with 95% intervals over seeds.

    Args:
        errors (`Mapping`): the scaled MSE by strategy, share and seed.
        path (`str` or path): the file; its suffix is the format.
        baselines (`Collection[str]`, *optional*): names that are drawn broken.

    Raises:
        ImportError: without matplotlib.
    """
    figure = new_figure(7, 4.5, doing="plot_few_data", instead=_INSTEAD)
    axes = figure.subplots()
    for number, (name, by_share) in enumerate(errors.items()):
        shares = sorted(by_share)
        found = [summarise(by_share[share]) for share in shares]
        axes.errorbar(
            [100 * share for share in shares],
            [summary.mean for summary in found],
            yerr=[summary.half_width or 0 for summary in found],
            **_line(number, name in baselines),
            marker="s" if name in baselines else "o",
            markersize=4,
            capsize=3,
            label=name,
        )
    shares = sorted({share for by_share in errors.values() for share in by_share})
    if len(shares) > 1:
        axes.set_xscale("log")
    axes.set_xticks([100 * share for share in shares], [f"{100 * share:.4g}%" for share in shares])
    axes.minorticks_off()
    axes.set_xlabel("training rows of the target")
    axes.set_ylabel("test MSE, scaled")
    _beside(axes)
    return save_figure(figure, path)


def plot_horizon(
    errors: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    *,
    step: str = "row",
    baselines: Collection[str] = (),
) -> Path:
    """
    Draw the error of each step ahead.

    Args:
        errors (`Mapping[str, np.ndarray]`): `(H,)` scaled MSE by name, NaN where nothing was observed.
        path (`str` or path): the file.
        step (`str`, *optional*): how far a step is, in words.
        baselines (`Collection[str]`, *optional*): names that are drawn broken.

    Raises:
        ImportError: without matplotlib.
    """
    figure = new_figure(7, 4.5, doing="plot_horizon", instead=_INSTEAD)
    axes = figure.subplots()
    for number, (name, own) in enumerate(errors.items()):
        marker = "o" if len(own) == 1 else None
        axes.plot(np.arange(1, len(own) + 1), own, **_line(number, name in baselines), marker=marker, label=name)
    axes.set_xlabel(f"steps ahead (a step: {step})")
    axes.set_ylabel("test MSE, scaled")
    axes.set_ylim(bottom=0)
    _beside(axes)
    return save_figure(figure, path)


def plot_forecasts(panels: Sequence[Sequence[Panel]], path: str | os.PathLike[str]) -> Path:
    """
    Draw windows with their history, what came, and what was forecast.

    Args:
        panels (`Sequence[Sequence[Panel]]`): rows of panels, all of one length.
        path (`str` or path): the file.

    Raises:
        ImportError: without matplotlib.
    """
    columns = len(panels[0])
    figure = new_figure(1.5 + 5.5 * columns, 1 + 2.4 * len(panels), doing="plot_forecasts", instead=_INSTEAD)
    grid = figure.subplots(len(panels), columns, squeeze=False)
    for row, own in zip(grid, panels, strict=True):
        for axes, panel in zip(row, own, strict=True):
            _draw(axes, panel)
    lines, names = grid[0][0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    return save_figure(figure, path)


def _draw(axes: Any, panel: Panel) -> None:
    dated = np.issubdtype(panel.dates.dtype, np.datetime64)
    # nanoseconds are more than matplotlib counts in
    dates = panel.dates.astype("datetime64[us]") if dated else panel.dates
    known = len(panel.history)
    axes.plot(dates[:known], panel.history, color="0.55", label="history", linewidth=1)
    axes.plot(dates[known:], panel.truth, color="black", label="truth", linewidth=1.4)
    for number, (name, own) in enumerate(panel.forecasts.items()):
        axes.plot(dates[known:], own, **_line(number, broken=number > 1), label=name)
    axes.axvline(dates[known], color="0.8", linewidth=0.8, linestyle=":")
    axes.set_title(panel.title, fontsize="small")
    # not by matplotlib's locators, which warn of spans that they have no step for
    ticks = dates[np.linspace(0, len(dates) - 1, 5).round().astype(int)]
    labels = ticks
    if dated:
        whole_days = bool((dates == dates.astype("datetime64[D]")).all())
        labels = np.datetime_as_string(ticks, unit="D" if whole_days else "m")
    axes.set_xticks(ticks, [str(label).replace("T", "\n") for label in labels])
    axes.tick_params(labelsize="small")


def _line(number: int, broken: bool) -> dict[str, Any]:
    colour = _COLOURS[number % len(_COLOURS)]
    return {"color": colour, "linestyle": "--" if broken else "-", "linewidth": 1.2}


def _beside(axes: Any) -> None:
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
