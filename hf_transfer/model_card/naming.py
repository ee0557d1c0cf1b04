"""Names that may stand in a public card: no path of a machine, no user of it, no token."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


_EMBEDDED_FOLDER = re.compile(r"^source_([a-z]+)_[0-9a-f]{12}$")  # of `hf_transfer.data.source_models`
_CACHED = re.compile(r"(models|datasets)--(.+?)[/\\]snapshots[/\\]([0-9a-f]{40})")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_LONGEST = 200  # characters of a setting

__all__ = ["public_name", "scrubbed", "shown"]


def public_name(name: str | os.PathLike[str] | None) -> tuple[str | None, str | None, str | None]:
    """
    What a card calls a model or data set, and where that is on the Hub.

    Args:
        name (`str` or path, *optional*): Hub id, folder, file, or an embedded name.

    Returns:
        `tuple`: the name (that of a folder alone, without its path), the Hub id if it is one, and the commit if the
        name is a folder of the Hub's cache.

    Example:
        >>> public_name("google/vit-base-patch16-224")
        ('google/vit-base-patch16-224', 'google/vit-base-patch16-224', None)
        >>> public_name("/home/somebody/models/mine"), public_name("embedded:image")
        (('mine', None, None), ('embedded:image', None, None))
    """
    text = os.fspath(name) if name is not None else ""
    if not text:
        return None, None, None
    if text.startswith("embedded:"):
        return text, None, None
    if found := _CACHED.search(text):
        hub_id = found[2].replace("--", "/")
        return hub_id, hub_id, found[3]
    path = Path(text).expanduser()
    if found := _EMBEDDED_FOLDER.match(path.name):
        return f"embedded:{found[1]}", None, None
    if _HUB_ID.match(text) and not path.exists():
        return text, text, None
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] or None, None, None


def shown(value: Any) -> str:
    """
    A setting as a card shows it: short, without paths and addresses in memory.

    Example:
        >>> from hf_transfer.schedules import warmup
        >>> shown(warmup()), shown(0.1 + 0.2), shown("/data/mine"), shown(len), shown([1e-5, None])
        ('warmup(gamma=10.0, peak=1.0)', '0.3', 'mine', 'len', '[1e-05, None]')
    """
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, (int, float)):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        looks_like_path = bool(re.match(r"^([~./\\]|[A-Za-z]:[/\\])", text)) or (
            "/" in text and " " not in text and Path(text).exists()
        )
        return _cut((public_name(text)[0] or "") if looks_like_path else text)
    if isinstance(value, Mapping):
        return _cut("{" + ", ".join(f"{key}: {shown(own)}" for key, own in value.items()) + "}")
    if isinstance(value, (list, tuple, set, frozenset)):
        values = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return _cut("[" + ", ".join(map(shown, values)) + "]")
    if type(value).__name__ == "Teacher":
        return _teacher(value)
    text = repr(value)
    if " at 0x" in text or "\n" in text or len(text) > _LONGEST or text.startswith("<"):
        return getattr(value, "__name__", None) or type(value).__name__
    return text


def scrubbed(text: str) -> str:
    """
    Text without tokens and without the home folder and the user's name, whatever slipped through before.

    Example:
        >>> scrubbed("token hf_abcdefghijklmnopqrstuvwxyz")
        'token hf_...'
    """
    text = _TOKEN.sub("hf_...", text)
    for folder in {str(Path.home()), os.getcwd()}:
        if len(folder) > 1:
            text = text.replace(folder + os.sep, "").replace(folder, Path(folder).name)
    return text


def is_user_name(name: str) -> bool:
    """Whether it is what the machine calls whoever runs this: a folder of that name says more than it should."""
    try:
        return name == getpass.getuser()
    except (OSError, KeyError, ImportError):
        return False


def _teacher(teacher: Any) -> str:
    """A teacher by the name and class of its model."""
    from hf_transfer.teacher.description import describe

    try:
        told = describe(teacher)
    except (AttributeError, StopIteration, TypeError, ValueError):  # several, or what is left of one on disk
        return type(teacher).__name__
    name = public_name(told["model"])[0] or told["class"]
    return name if name == told["class"] else f"{name} ({told['class']}, {told['parameters']:,} parameters)"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
