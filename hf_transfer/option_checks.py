"""What the options of recipes have in common: bounds of numbers, and words that several recipes say alike."""

from __future__ import annotations

from collections.abc import Mapping


RESUME_HELP = (
    "Take finished runs of the same settings from results.json in the output folder; false trains all of them anew."
)
"""Of `--resume`, in every recipe that compares."""

__all__ = ["RESUME_HELP", "check_least", "check_positive"]


def check_least(options: Mapping[str, tuple[float | None, float]], *, cost: str) -> None:
    """
    Check that numbers are not below their least.

    Args:
        options (`Mapping[str, tuple[float | None, float]]`): by name the value, `None` where it is left out, and the
            least that it may be.
        cost (`str`): what less of it would leave nothing of, for the message.

    Raises:
        ValueError: if one is below.

    Example:
        >>> check_least({"seeds": (1, 1), "season": (None, 1)}, cost="to train")
    """
    for option, (value, least) in options.items():
        if value is not None and value < least:
            raise ValueError(f"`--{option} {value}` leaves nothing {cost}. Give {least} or more.")


def check_positive(options: Mapping[str, float | None]) -> None:
    """
    Check that rates, weights and the like are above zero.

    Args:
        options (`Mapping[str, float | None]`): by name the value, `None` where it is left out.

    Raises:
        ValueError: if one is not.

    Example:
        >>> check_positive({"inner_lr": 0.1, "temperature": None})
    """
    for option, value in options.items():
        if value is not None and value <= 0:
            raise ValueError(f"`--{option} {value}` learns nothing, or the wrong way. Give more than 0.")
