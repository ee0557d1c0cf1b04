"""Options whose value on the command line is a JSON object."""

from __future__ import annotations

import json
from typing import Any


__all__ = ["json_object"]


def json_object(option: str, text: str, *, cost: str, example: str) -> dict[str, Any]:
    """
    The JSON object that an option was given as text.

    Args:
        option (`str`): name of the option, for the message.
        text (`str`): its value.
        cost (`str`): what would go wrong if the value were dropped, for the message.
        example (`str`): a value that works, for the message.

    Raises:
        ValueError: if the text is no JSON object.

    Example:
        >>> json_object("learning_rates", '{"head": 1e-3}', cost="the rates would be lost", example='{"head": 1e-3}')
        {'head': 0.001}
    """
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise TypeError(f"it is a {type(value).__name__}")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`--{option} {text}` is no JSON object ({error}): {cost}. Write it as '{example}', with double quotes "
            "inside and single quotes around."
        ) from error
    return value
