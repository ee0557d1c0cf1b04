"""How figures of a comparison are written in sentences."""

from __future__ import annotations

from collections.abc import Collection

from hf_transfer.compare.answer import Estimate


_SHARES = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth", 8: "an eighth", 10: "a tenth"}

__all__ = ["figure", "share_of", "strategy_name", "with_interval"]


def figure(value: float) -> str:
    """
    A score or a difference of scores.

    Example:
        >>> figure(0.8125), figure(-0.0001), figure(-1234.56)
        ('0.812', '0.000', '-1235')
    """
    if abs(value) >= 100:
        return f"{value:.4g}"
    written = f"{value:.3f}"
    return "0.000" if written == "-0.000" else written


def with_interval(estimate: Estimate) -> str:
    """
    With the ends of the interval, where there is one.

    Example:
        >>> with_interval(Estimate(-0.01, -0.04, 0.02)), with_interval(Estimate(0.5))
        ('-0.010, -0.040 to 0.020', '0.500')
    """
    if estimate.low is None or estimate.high is None:
        return figure(estimate.mean)
    return f"{figure(estimate.mean)}, {figure(estimate.low)} to {figure(estimate.high)}"


def share_of(part: float, whole: float) -> str | None:
    """
    A part of something in words; `None` where it is no part worth mentioning.

    Example:
        >>> share_of(2.0, 10.0), share_of(7.0, 10.0), share_of(0.1, 10.0), share_of(9.9, 10.0)
        ('a fifth', '70%', 'less than a tenth', None)
    """
    if whole <= 0 or part > 0.95 * whole:
        return None
    if part < 0.095 * whole:
        return "less than a tenth"
    word = _SHARES.get(round(whole / part))
    # a word only where it is right to a tenth, so that 70% is not "half"
    if word is not None and abs(round(whole / part) * part / whole - 1) <= 0.1:
        return word
    return f"{part / whole:.0%}"


def strategy_name(key: tuple[str, str], keys: Collection[tuple[str, str]]) -> str:
    """
    The strategy, and the model too where `keys` have several.

    Example:
        >>> strategy_name(("vit", "lora"), [("vit", "full")]), strategy_name(("vit", "lora"), [("bit", "full")])
        ('lora', 'lora on vit')
    """
    return key[1] if all(model == key[0] for model, _ in keys) else f"{key[1]} on {key[0]}"
