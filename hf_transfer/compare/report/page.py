"""The page of a comparison: one HTML file that needs nothing beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging

from hf_transfer.compare.answer import TableRow
from hf_transfer.compare.outcome import ComparisonResults, Mistake
from hf_transfer.compare.report import words
from hf_transfer.compare.report.captions import Caption, captions
from hf_transfer.compare.report.prose import (
    choice,
    class_summary,
    extent,
    nothing_recommended,
    reading,
    subject,
    verdict_words,
)
from hf_transfer.compare.report.svg import inline_svg


logger = logging.get_logger(__name__)

HERE = Path(__file__).parent
CONFUSED = 12
"""Most pairs of classes that are listed as confused."""
PICTURES = 1_000_000
"""Most letters of pictures of mistakes, so that the page can be sent by mail."""
_PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+")

__all__ = ["badges", "confused", "groups", "page", "safe_pictures"]


def page(results: ComparisonResults) -> str:
    """
    The page as HTML. Without matplotlib it has no figures, and a warning says so.

    Args:
        results (`ComparisonResults`): of a comparison.

    Raises:
        ImportError: if Jinja is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise ImportError(
            "The page of a comparison is written from a Jinja template, and `jinja2` is not installed: there would be "
            'no report.html. Run `pip install "hf-transfer-learning[recipes]"`.'
        ) from error
    templates = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = templates.from_string((HERE / "page.html.jinja").read_text(encoding="utf-8"))
    return template.render(_shown(results)) + "\n"


def groups(results: ComparisonResults) -> list[tuple[str, list[TableRow]]]:
    """The rows of the table by model, in their order."""
    models = dict.fromkeys(row.model for row in results.answer.rows)
    return [(model, [row for row in results.answer.rows if row.model == model]) for model in models]


def badges(results: ComparisonResults, row: TableRow) -> list[tuple[str, str]]:
    """
    What is to be said of a row at one glance: a class of the style sheet and the word.

    Args:
        results (`ComparisonResults`): of a comparison.
        row (`TableRow`): one of its rows.
    """
    chosen, found = results.answer.recommendation, []
    own = (row.model, row.strategy)
    if chosen is not None and own == (chosen.model, chosen.strategy):
        found.append(("chosen", "recommended"))
    elif chosen is not None and own == chosen.leader:
        found.append(("plain", "best mean, tied"))
    elif row.tied:
        found.append(("plain", "tied with the best"))
    if results.strategies.get(row.strategy, {}).get("baseline"):
        found.append(("plain", "baseline"))
    if row.status != "finished":
        found.append(("negative" if row.status == "failed" else "undecided", row.status))
    return found


def confused(results: ComparisonResults) -> list[tuple[str, str, int]]:
    """The pairs of classes that are confused most: the true one, the one it was taken for, how often."""
    names = results.label_names
    found = [
        (str(names[truth]), str(names[taken]), number)
        for truth, line in enumerate(results.confusion or [])
        for taken, number in enumerate(line)
        if truth != taken and number
    ]
    return sorted(found, key=lambda pair: -pair[2])[:CONFUSED]


def safe_pictures(mistakes: Sequence[Mistake]) -> list[tuple[Mistake, str | None]]:
    """Mistakes with their pictures; without those that are no `data:` URI, or would make the page too large."""
    found, room = [], PICTURES
    for own in mistakes:
        image = own.image if own.image and _PICTURE.fullmatch(own.image) else None
        room -= len(image or "")
        found.append((own, image if room >= 0 else None))
    return [(own, image) for own, image in found if image or own.text is not None]


def _shown(results: ComparisonResults) -> dict[str, Any]:
    best = results.best()
    titles: Callable[[str], str] = partial(_title, results)
    by_model = groups(results)
    names = dict.fromkeys(row.strategy for row in results.answer.rows)
    mistakes = safe_pictures(results.mistakes)
    by_name = {(row.model, row.strategy): row for row in results.answer.rows}
    return {
        "results": results,
        "words": words,
        "best": best,
        "title": titles,
        "badges": partial(badges, results),
        "beside": _beside,
        "css": (HERE / "page.css").read_text(encoding="utf-8"),
        "headline": "No strategy is recommended" if best is None else f"{titles(best.strategy)} is recommended",
        "subject": subject(results),
        "extent": extent(results),
        "nothing": nothing_recommended(results),
        "verdict": verdict_words(results),
        "choice": choice(results),
        "reading": reading(results),
        "class_summary": class_summary(results.answer.verdict.classes),
        "metric": words.metric_name(results.metric),
        "groups": by_model,
        "overview": [(name, [by_name.get((model, name)) for model, _ in by_model]) for name in names],
        "tested": any(row.test is not None for row in results.answer.rows),
        "figures": _figures(results),
        "confused": confused(results),
        "mistakes": mistakes,
        "pictures": any(image for _, image in mistakes),
        "shows_winner": bool(results.confusion or mistakes or results.features),
        "strategies": [(name, _about(results, name)) for name in names],
        "data": words.pairs(results.data),
        "settings": words.pairs(results.settings),
        "environment": words.pairs(results.environment),
    }


def _figures(results: ComparisonResults) -> dict[str, dict[str, Any]]:
    from hf_transfer.compare.report import plots

    found = {}
    for name, caption in captions(results).items():
        try:
            figure = getattr(plots, f"plot_{name}")(results)
        except ImportError as error:
            logger.warning(f"The report has no figures: {error}")
            return {}
        found[name] = {**_caption(caption), "svg": inline_svg(figure, name)}
    return found


def _caption(caption: Caption) -> dict[str, Any]:
    return dict(vars(caption))


def _title(results: ComparisonResults, strategy: str) -> str:
    return str(results.strategies.get(strategy, {}).get("title") or strategy)


def _beside(row: TableRow) -> str:
    seeds = f"{len(row.seeds)} seed{'s' if len(row.seeds) != 1 else ''}" if row.seeds else ""
    why = row.reason if row.status == "finished" else None
    return "; ".join(part for part in (seeds, row.note, why) if part)


def _about(results: ComparisonResults, strategy: str) -> dict[str, str]:
    about = results.strategies.get(strategy, {})
    paper = str(about.get("paper") or "")
    return {"about": str(about.get("about") or ""), "link": paper if paper.startswith("https://") else ""}
