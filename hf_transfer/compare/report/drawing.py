"""How the figures of a report look: colours that all people can tell apart, names that are shown as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_transfer.figures import new_figure


INK, MUTED, LINE = "#1b1f24", "#5b6470", "#d5d9df"
CHOSEN, OTHER = "#d55e00", "#0072b2"
SERIES = (OTHER, CHOSEN, "#009e73", "#c06696", "#b87f00", "#3a9bd3", "#7a5fc0")
"""After Okabe and Ito, the light ones darkened for white paper."""
MARKERS = "os^DvPX"
WIDTH = 5.0
"""Inches: letters of `FONT` points can be read where the figure is as wide as a phone."""
FONT = 9.5

__all__ = [
    "CHOSEN",
    "FONT",
    "INK",
    "LINE",
    "MARKERS",
    "MUTED",
    "OTHER",
    "SERIES",
    "WIDTH",
    "as_is",
    "canvas",
    "legend_below",
    "place_labels",
    "styled",
]


def canvas(height: float, doing: str, *, width: float = WIDTH) -> Any:
    """An empty figure of a report; without matplotlib an `ImportError`."""
    return new_figure(width, height, doing=doing, instead="the tables of report.md hold the numbers")


def styled(axes: Any, *, grid: str | None = "both") -> Any:
    """Axes with a light frame: only the two sides that are read, and a faint grid behind."""
    axes.tick_params(labelsize=FONT, colors=MUTED, labelcolor=INK, length=0, pad=4)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LINE)
    if grid:
        axes.grid(True, axis=grid, color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(size=FONT, color=MUTED)
    axes.title.set(size=FONT + 1, color=INK)
    return axes


def as_is(text: str, longest: int = 28) -> str:
    """
    A name for a figure: one line, shortened in the middle, and no formula even with dollar signs.

    Example:
        >>> as_is("a$b$"), as_is("an intent of customers", 9)
        ('a\\\\$b\\\\$', 'an i…mers')
    """
    text = " ".join(text.split())
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[len(text) - (longest - longest // 2 - 1) :]}"
    return text.replace("$", r"\$")


def legend_below(target: Any, handles: Sequence[Any] | None = None, *, columns: int = 2) -> None:
    """A legend under the axes of a figure, where it hides nothing."""
    given = {} if handles is None else {"handles": handles}
    target.legend(
        **given, loc="outside lower center", ncols=columns, frameon=False, fontsize=FONT - 0.5, labelcolor=INK
    )


def place_labels(
    places: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    wide: float,
    high: float,
    others: Sequence[tuple[float, float]] = (),
) -> list[tuple[float, float]]:
    """
    Where labels of points go, so that they hide neither points nor each other: for each, in the order given, the
    nearest free spot.

    Args:
        places (`Sequence[tuple[float, float]]`): points, in typographic points from the lower left corner.
        texts (`Sequence[str]`): their labels.
        wide, high (`float`): size of the axes.
        others (`Sequence[tuple[float, float]]`, *optional*): points without labels.

    Returns:
        `list[tuple[float, float]]`: from each point to the left end of the middle of its label.

    Example:
        >>> place_labels([(10, 50), (10, 50)], ["a", "b"], wide=100, high=100)[0]
        (7.0, 0.0)
    """
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in (*places, *others)]
    found = []
    for (x, y), text in zip(places, texts, strict=True):
        length, tall = 0.63 * (FONT - 1) * len(text), FONT + 1
        best, least = (7.0, 0.0), float("inf")
        for far in (0, 13, 26, 39, 52):
            spots = [(7.0, 0.0), (-7.0 - length, 0.0), (-length / 2, 12.0), (-length / 2, -12.0)] if not far else []
            spots += [(side, way * far) for way in (1.0, -1.0) for side in (7.0, -7.0 - length) if far]
            for right, up in spots:
                box = (x + right, y + up - tall / 2, x + right + length, y + up + tall / 2)
                outside = max(0, -box[0]) + max(0, box[2] - wide) + max(0, -box[1]) + max(0, box[3] - high)
                price = sum(_common(box, other) for other in taken) + 50 * outside + far
                if price < least:
                    best, least = (right, up), price
        found.append(best)
        taken.append((x + best[0], y + best[1] - tall / 2, x + best[0] + length, y + best[1] + tall / 2))
    return found


def _common(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0
