"""`feature_plot`: source and target features in two dimensions, before and after."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hf_transfer.diagnostics.domain_rows import drawn, read_domains
from hf_transfer.figures import new_figure, save_figure


FORMATS = ("png", "svg", "pdf")
"""What the suffix of the file may say."""

MOST_ROWS = {"pca": 5000, "tsne": 1000}
"""Most rows of each domain that are drawn by default: t-SNE of 2 x 1000 rows takes some seconds."""

_MARKERS = ("o", "^")  # source, target: told apart without any colour

__all__ = ["FORMATS", "MOST_ROWS", "feature_plot", "legend_handles", "projected", "scatter"]


def feature_plot(
    panels: Mapping[str, tuple[Any, Any]],
    path: str | os.PathLike[str],
    *,
    method: Literal["pca", "tsne"] = "pca",
    labels: Mapping[str, tuple[Any, Any]] | tuple[Any, Any] | None = None,
    column: str = "features",
    max_rows: int | None = None,
    seed: int = 0,
) -> Path:
    """
    Draw source against target features in two dimensions, one panel for each pair, such as before and after.

    Each panel has its own axes, fitted to its two domains together. Source rows are circles, target rows triangles;
    with labels the classes have colours that differ in brightness too, so that the figure can be read in grey.

    Args:
        panels (`Mapping[str, tuple]`):
            Source and target of each panel by its title: what `extract_features` returns, or arrays `(N, D)`.
        path (`str` or `os.PathLike`):
            The file; its suffix is the format: `.png` (also without one), `.svg` or `.pdf`. It appears whole or not at
            all, and is the same for the same input.
        method (`str`, *optional*, defaults to `"pca"`):
            `"pca"` for the two directions of most variance, whose shares the axes tell; `"tsne"` for neighbourhoods,
            where distances and areas mean nothing.
        labels (`tuple` or `Mapping[str, tuple]`, *optional*):
            Class numbers of source and target rows, for all panels or by title; `None` for a domain without. -100
            is drawn as no class. Columns of labels are never read.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set.
        max_rows (`int`, *optional*, defaults to 5000 for PCA and 1000 for t-SNE):
            Most rows of each domain; drawn at random if there are more, the same in panels of equal length.
        seed (`int`, *optional*, defaults to 0):
            Of the draw and of t-SNE.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: if there is no panel, the method or suffix is unknown, labels do not fit, or features cannot be
            compared.
        ImportError: without matplotlib or scikit-learn.

    Relations:
        A picture shows what two dimensions can: [`proxy_a_distance`] and [`mmd_test`] see all of them.

    Example:
        >>> import tempfile
        >>> source, target = np.eye(6, 4), np.eye(5, 4) + 1
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     feature_plot({"before": (source, target)}, f"{folder}/shift.svg").name
        'shift.svg'
    """
    file = Path(path)
    kind = file.suffix.removeprefix(".").lower() or "png"
    _check(panels, method, kind)
    most = MOST_ROWS[method] if max_rows is None else max(max_rows, 2)
    drawings = {
        title: projected(pair, _labels_of(labels, title), method, column, most, seed) for title, pair in panels.items()
    }
    figure = new_figure(
        0.8 + 4.6 * len(panels),
        4.6,
        doing="feature_plot",
        instead="`proxy_a_distance` gives a number without it",
    )
    classes = sorted({int(label) for drawing in drawings.values() for label in drawing[1] if label >= 0})
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, drawing) in zip(grid, drawings.items(), strict=True):
        scatter(axes, *drawing, classes)
        axes.set_title(title)
    handles = legend_handles(classes)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), frameon=False)
    return save_figure(figure, file)


def projected(
    pair: tuple[Any, Any], labels: tuple[Any, Any], method: str, column: str, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Places `(N, 2)` of both domains, class (-1 for none) and domain of each row, names of the axes."""
    parts, classes = [], []
    for rows, own in zip(read_domains(*pair, column=column, who="a plot"), labels, strict=True):
        numbers = np.full(len(rows), -1) if own is None else np.asarray(own).reshape(-1)
        if len(numbers) != len(rows):
            raise ValueError(
                f"There are {len(rows)} rows of features and {len(numbers)} labels: points would be drawn as another "
                "class. Pass one label for each row, -100 where it has none."
            )
        chosen = drawn(len(rows), most, np.random.default_rng(seed))
        parts.append(rows.features[chosen].astype(np.float64))
        classes.append(numbers[chosen])
    domain = np.repeat([0, 1], [len(part) for part in parts])
    places, names = _reduced(np.concatenate(parts), method, seed)
    return places, np.concatenate(classes), domain, names


def _reduced(rows: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, list[str]]:
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError(
            "`feature_plot` needs scikit-learn, which is not installed: features cannot be brought to two dimensions. "
            'Run `pip install "hf-transfer-learning[recipes]"`.'
        ) from error
    rows = rows - rows.mean(0)
    if not rows.any():  # all the same: no direction has any variance
        return np.zeros((len(rows), 2)), ["", ""]
    wanted = 2 if method == "pca" else 50
    pca = PCA(min(wanted, *rows.shape), svd_solver="full")
    places = pca.fit_transform(rows)
    if method == "pca":
        shares = [*pca.explained_variance_ratio_, 0.0][:2]
        names = [f"component {number} ({share:.0%} of variance)" for number, share in enumerate(shares, 1)]
        return np.pad(places, ((0, 0), (0, 2 - places.shape[1]))), names
    perplexity = min(30.0, (len(rows) - 1) / 3)
    # the first two components, scaled, are where t-SNE starts; it wants no fewer than two
    places = np.pad(places, ((0, 0), (0, max(2 - places.shape[1], 0))))
    start = places[:, :2] / max(float(places[:, 0].std()), np.finfo(np.float64).tiny) * 1e-4
    # the stub of scikit-learn 1.9 wants a string for init, its documentation a string or an array
    reducer = TSNE(
        2,
        init=start,  # pyright: ignore[reportArgumentType]
        perplexity=perplexity,
        learning_rate="auto",
        random_state=seed,
    )
    return reducer.fit_transform(places), ["t-SNE 1", "t-SNE 2"]


def scatter(
    axes: Any, places: np.ndarray, labels: np.ndarray, domain: np.ndarray, names: list[str], classes: list[int]
) -> None:
    """Draw what [`projected`] returned into axes of matplotlib."""
    # in an order of its own: else one domain lies on top of the other
    order = np.random.default_rng(0).permutation(len(places))
    colours = np.array([_colour(label, number, classes) for label, number in zip(labels, domain, strict=True)])
    # a scatter has one marker: slices of the order, drawn by turns
    for part in np.array_split(order, 8):
        for number, marker in enumerate(_MARKERS):
            rows = part[domain[part] == number]
            axes.scatter(
                *places[rows].T,
                s=14,
                marker=marker,
                c=colours[rows],
                edgecolors="black" if number else "white",
                linewidths=0.4,
                rasterized=len(places) > 2000,
            )
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.tick_params(labelleft=False, labelbottom=False, length=0)


def _colour(label: int, domain: int, classes: list[int]) -> tuple[float, float, float, float]:
    if not classes:
        return ((0.12, 0.29, 0.53, 0.8), (0.98, 0.73, 0.36, 0.8))[domain]  # dark and light
    if label < 0:
        return (0.75, 0.75, 0.75, 0.6)
    from matplotlib import colormaps

    red, green, blue, _ = colormaps["viridis"](classes.index(label) / max(len(classes) - 1, 1))
    return (red, green, blue, 0.85)


def legend_handles(classes: list[int]) -> list[Any]:
    """Entries of a legend for both domains and the classes."""
    from matplotlib.lines import Line2D

    def handle(label: str, marker: str, colour: Any, edge: str) -> Any:
        return Line2D([], [], linestyle="", marker=marker, color=colour, markeredgecolor=edge, label=label)

    shades = ["0.5", "0.5"] if classes else [_colour(-1, domain, classes) for domain in (0, 1)]
    domains = zip(("source", "target"), _MARKERS, shades, ("white", "black"), strict=True)
    return [
        *(handle(*parts) for parts in domains),
        *(handle(f"class {label}", "s", _colour(label, 0, classes), "white") for label in classes[:14]),
    ]


def _labels_of(labels: Any, title: str) -> tuple[Any, Any]:
    found = labels.get(title) if isinstance(labels, Mapping) else labels
    return (None, None) if found is None else (found[0], found[1])


def _check(panels: Mapping[str, Any], method: str, kind: str) -> None:
    if not panels:
        raise ValueError(
            'No panel was given, so there is nothing to draw. Pass source and target by title: `{"before": (source, '
            "target)}`."
        )
    if method not in MOST_ROWS:
        raise ValueError(
            f'method="{method}" is unknown: it says how features become two dimensions. Choose one of '
            f"{', '.join(MOST_ROWS)}."
        )
    if kind not in FORMATS:
        raise ValueError(
            f"The suffix `.{kind}` is no format that is written here: nothing could be read back. Name the file "
            f"{', '.join(f'*.{name}' for name in FORMATS)}."
        )
