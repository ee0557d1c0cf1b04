"""Figures of matplotlib, drawn into files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hf_transfer.files import whole_file


_NO_TIME: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}

__all__ = ["new_figure", "save_figure"]


def new_figure(width: float, height: float, *, doing: str, instead: str) -> Any:
    """
    An empty `matplotlib.figure.Figure`.

    Args:
        width, height (`float`): in inches.
        doing (`str`): the call that needs it, for the error.
        instead (`str`): where the numbers are without it, for the error.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"`{doing}` needs matplotlib, which is not installed: nothing can be drawn. Run `pip install matplotlib`; "
            f"{instead}."
        ) from error
    # not `pyplot`: it keeps figures and chooses a backend for the whole process
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | os.PathLike[str]) -> Path:
    """
    Draw a figure into a file, which appears whole or not at all; its suffix is the format, PNG without one. The same
    figure is the same bytes each time.
    """
    from matplotlib import rc_context

    path = Path(path)
    kind = path.suffix.removeprefix(".").lower() or "png"
    # names inside an SVG are drawn at random without a salt
    with whole_file(path) as unfinished, rc_context({"svg.hashsalt": "hf_transfer"}):
        figure.savefig(unfinished, format=kind, dpi=120, metadata=_NO_TIME.get(kind))
    return path
