"""Figures as part of a page: SVG whose letters are text and whose colours follow those of the page."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

from hf_transfer.compare.report.drawing import INK, LINE, MUTED, SERIES


COLOURS = {INK: "--ink", MUTED: "--muted", LINE: "--line"} | {
    colour: f"--series-{place}" for place, colour in enumerate(SERIES)
}
"""Variables of the page that take the place of colours, so that figures are right on dark paper too."""

__all__ = ["COLOURS", "inline_svg"]


def inline_svg(figure: Any, name: str, *, dpi: int = 150) -> str:
    """
    A figure as an SVG element.

    Args:
        figure (`Figure`): of matplotlib.
        name (`str`): begins the ids in it, which must differ from those of other figures of the page.
        dpi (`int`, *optional*, defaults to 150): of what is a picture in it.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with warnings.catch_warnings(), rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        # what the font of matplotlib lacks is there in those of the browser, which draws the text
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", dpi=dpi, transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<[A-Za-z][^<>]*>", lambda tag: _tag(tag.group(), name), text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _tag(tag: str, name: str) -> str:
    if tag.startswith("<svg"):  # as wide as there is room
        box = re.search(r'viewBox="[^"]*"', tag)
        return (
            f'<svg {box.group() if box else ""} xmlns="http://www.w3.org/2000/svg" '
            'xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true" focusable="false">'
        )
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', tag).replace("url(#", f"url(#{name}-")
    tag = re.sub(r"font(-family)?: [^;\"]*?(\d[\d.]*px) [^;\"]*", lambda found: f"font-size: {found.group(2)}", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: _colour(found.group()), tag) if 'style="' in tag else tag


def _colour(code: str) -> str:
    return f"var({COLOURS[code]})" if code in COLOURS else code
