"""The templates of cards: shipped in the package, or a person's own."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub.repocard_data import CardData


PACKAGE = Path(__file__).parents[1]

__all__ = ["render", "template_text"]


def template_text(name: str | os.PathLike[str]) -> str:
    """
    The text of a template: `model` or `data` for those shipped here, else a file.

    Raises:
        FileNotFoundError: if there is no such file.

    Example:
        >>> template_text("model").startswith("---")
        True
    """
    if name in ("model", "data"):
        # `hf_transfer/model_cards` is a link to the folder beside the package; without links a checkout has a file
        places = [PACKAGE / "model_cards", PACKAGE.parent / "model_cards"]
        path = next((own / f"{name}.md.jinja" for own in places if own.is_dir()), places[0] / f"{name}.md.jinja")
    else:
        path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no template `{path.name}`: no card can be written from it. Give the path of a Jinja file, or "
            "leave `template` out for the one that is shipped."
        )
    return path.read_text(encoding="utf-8")


def render(card_class: Any, data: CardData, template: str, values: dict[str, Any]) -> Any:
    """
    A card of `huggingface_hub` from a template, without the gaps that parts left out have left.

    Raises:
        ImportError: if Jinja is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Cards are written from Jinja templates, and `jinja2` is not installed: the model would have no card. Run "
            '`pip install "hf-transfer-learning[recipes]"`.'
        ) from error
    card = card_class.from_template(data, template_str=template, **values)
    return card_class(re.sub(r"\n{3,}", "\n\n", str(card).rstrip()) + "\n")
