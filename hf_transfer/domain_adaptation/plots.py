"""The figures of a comparison: scores by method, distances of the domains, features before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_transfer.compare.results import Cell
from hf_transfer.compare.tables import scores_of
from hf_transfer.diagnostics import feature_plot
from hf_transfer.domain_adaptation.methods import REFERENCES, SOURCE_ONLY
from hf_transfer.domain_adaptation.outputs import Outputs
from hf_transfer.figures import new_figure, save_figure
from hf_transfer.repeats import summarise


__all__ = ["best_methods", "plot_features", "plot_scores"]


def plot_scores(cells: Sequence[Cell], metric: str, path: str | Path) -> Path:
    """
    Draw the scores of every method with their 95% intervals, and the proxy A-distance before and after.

    Args:
        cells (`Sequence[Cell]`): finished runs.
        metric (`str`): what is scored, such as `accuracy`.
        path (`str` or path): the file; its suffix is the format.

    Raises:
        ImportError: without matplotlib.
    """
    methods = list(dict.fromkeys(cell.method for cell in cells))[::-1]  # the first on top
    distance = any("a_distance" in cell.diagnostics for cell in cells)
    figure = new_figure(
        6 + 4 * distance,
        1.2 + 0.45 * len(methods),
        doing="plot_scores",
        instead="the tables hold the numbers",
    )
    axes = figure.subplots(1, 1 + distance, squeeze=False)[0]
    ways = {"target": "o", "source": "s"}
    _points(axes[0], methods, {way: [scores_of(cells, m, f"{way}_{metric}") for m in methods] for way in ways}, ways)
    axes[0].set_xlabel(metric)
    if distance:
        names = {"a_distance_before": "D", "a_distance": "o"}
        _points(axes[1], methods, {name: [scores_of(cells, m, name) for m in methods] for name in names}, names)
        axes[1].set_xlabel("proxy A-distance (0: domains alike, 2: told apart)")
        axes[1].set_xlim(-0.05, 2.05)
    return save_figure(figure, path)


def plot_features(panels: Mapping[str, Mapping[str, Outputs]], path: str | Path, *, seed: int = 0) -> Path:
    """
    Draw the features of source and target by panel, such as before adaptation and after it, coloured by the class of
    the source label and of the target prediction.

    Args:
        panels (`Mapping`): outputs of `source` and `target` by title.
        path (`str` or path): the file.
        seed (`int`, *optional*, defaults to 0): of the rows that are drawn.
    """
    arrays = {
        title: tuple(own[name].features.numpy() for name in ("source", "target")) for title, own in panels.items()
    }
    first: Any = next(iter(panels.values()))["source"]
    classes = None
    if first.labels.dim() == 1 and not first.labels.is_floating_point():
        classes = {
            title: (own["source"].labels.numpy(), own["target"].logits.argmax(-1).numpy())
            for title, own in panels.items()
        }
    return feature_plot(arrays, path, labels=classes, seed=seed)  # pyright: ignore[reportArgumentType]


def best_methods(cells: Sequence[Cell], metric: str, count: int = 2) -> list[str]:
    """The methods that adapt best by the target's score, or where it has none all in their order, at most `count`."""
    methods = [method for method in dict.fromkeys(cell.method for cell in cells) if method not in REFERENCES]
    scores = {method: scores_of(cells, method, f"target_{metric}") for method in methods}
    ranked = sorted(methods, key=lambda method: -summarise(scores[method]).mean if scores[method] else 0.0)
    return ranked[:count]


def _points(axes: Any, methods: Sequence[str], series: Mapping[str, Any], markers: Mapping[str, str]) -> None:
    for number, (name, values) in enumerate(series.items()):
        places = [place + 0.12 * (0.5 - number) for place, own in enumerate(values) if own]
        found = [summarise(own) for own in values if own]
        axes.errorbar(
            [summary.mean for summary in found],
            places,
            xerr=[summary.half_width or 0 for summary in found],
            fmt=markers[name],
            capsize=3,
            label=name.replace("a_distance_before", "before").replace("a_distance", "after"),
        )
    if SOURCE_ONLY in methods and series.get("target") and series["target"][methods.index(SOURCE_ONLY)]:
        mean = summarise(series["target"][methods.index(SOURCE_ONLY)]).mean
        axes.axvline(mean, linewidth=0.8, linestyle=":", color="black")
    axes.set_yticks(range(len(methods)), methods)
    axes.legend(frameon=False, fontsize="small")
