"""Numbers and words of a report: one way to write each, so that page, text and figures say the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hf_transfer.compare.answer import NEGATIVE, POSITIVE, UNDECIDED, Difference, Estimate
from hf_transfer.compare.cells import Costs
from hf_transfer.compare.judging.wording import figure
from hf_transfer.compare.planning.budget import duration


NONE = "–"
"""In place of what was not measured."""
METRICS = {"f1": "F1", "macro_f1": "macro F1", "pearson": "Pearson r", "mse": "minus squared error"}
VERDICTS = {
    POSITIVE: ("▲", "Transfer helps"),
    NEGATIVE: ("▼", "Transfer hurts"),
    UNDECIDED: ("◆", "Undecided"),
}
"""Sign and words of a verdict, which must be told apart without colours too."""
COSTS = {
    "seconds": "Training time",
    "peak_memory_bytes": "Peak memory",
    "trained_parameters": "Trained weights",
    "bytes": "Size on disk",
    "latency_ms": "Latency",
}
"""Costs that a report shows, by their names in [`Costs`]."""

__all__ = [
    "COSTS",
    "METRICS",
    "NONE",
    "VERDICTS",
    "cost",
    "count",
    "difference",
    "duration",
    "interval",
    "joined",
    "metric_name",
    "pairs",
    "percent",
    "score",
    "size",
]


def metric_name(metric: str) -> str:
    """
    What a metric is called.

    Example:
        >>> metric_name("accuracy"), metric_name("macro_f1"), metric_name("top_5")
        ('accuracy', 'macro F1', 'top 5')
    """
    return METRICS.get(metric, metric.replace("_", " "))


def score(value: float | None) -> str:
    """
    A score, with three decimals unless it is large.

    Example:
        >>> score(0.91349), score(-0.0001), score(None)
        ('0.913', '0.000', '–')
    """
    return NONE if value is None else figure(value).replace("-", "−")


def interval(estimate: Estimate | None) -> str:
    """
    The ends of an interval; empty where there is none.

    Example:
        >>> interval(Estimate(0.9, 0.85, 0.95)), interval(Estimate(0.9)), interval(Difference(0, -0.02, 0.01))
        ('0.850 to 0.950', '', '−0.020 to +0.010')
    """
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    told = _signed if isinstance(estimate, Difference) else score
    return f"{told(estimate.low)} to {told(estimate.high)}"


def difference(gain: Estimate | None) -> str:
    """
    A difference with its sign.

    Example:
        >>> difference(Difference(0.0421)), difference(Difference(-0.0421)), difference(None)
        ('+0.042', '−0.042', '–')
    """
    return NONE if gain is None else _signed(gain.mean)


def size(amount: float | None) -> str:
    """
    Bytes, in powers of 1000 as disks are sold.

    Example:
        >>> size(512), size(2_345_678), size(None)
        ('512 B', '2.3 MB', '–')
    """
    return NONE if amount is None else _scaled(amount, ("B", "kB", "MB", "GB", "TB"))


def count(amount: float | None) -> str:
    """
    How many, shortened where many.

    Example:
        >>> count(990), count(23_456), count(86_567_656), count(None)
        ('990', '23.5 k', '86.6 M', '–')
    """
    return NONE if amount is None else _scaled(amount, ("", "k", "M", "G", "T"))


def cost(costs: Costs, name: str) -> str:
    """
    One of [`COSTS`] in words.

    Example:
        >>> cost(Costs(seconds=8.0, latency_ms=3.14159), "latency_ms")
        '3.1 ms'
    """
    value = getattr(costs, name)
    if value is None:
        return NONE
    if name == "seconds":
        return duration(value)
    if name == "latency_ms":
        return f"{value:.2g} ms" if value < 1 else f"{value:.1f} ms"
    return count(value) if name.endswith("parameters") else size(value)


def percent(share: float) -> str:
    """
    A share in whole percents, of which 0 and 100 are exact.

    Example:
        >>> percent(0.984), percent(0.9999), percent(1.0), percent(0.001)
        ('98%', '99%', '100%', '1%')
    """
    whole = round(100 * share)
    return f"{min(max(whole, 1), 99) if 0 < share < 1 else whole}%"


def joined(words: Iterable[str]) -> str:
    """
    Words as a list in a sentence.

    Example:
        >>> joined(["a"]), joined(["a", "b"]), joined("abc")
        ('a', 'a and b', 'a, b and c')
    """
    *head, last = list(words) or [""]
    return f"{', '.join(head)} and {last}" if head else last


def pairs(values: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """
    Names and values of nested settings as text, what is not set left out.

    Example:
        >>> pairs({"rows": {"train": 1200, "test": 30}, "learning_rate": 0.001, "seeds": [0, 1], "target": None})
        [('rows, train', '1,200'), ('rows, test', '30'), ('learning rate', '0.001'), ('seeds', '0, 1')]
    """
    found = []
    for key, value in values.items():
        name = f"{above}{', ' if above else ''}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            found += pairs(value, name)
        elif value is not None and value != "" and value != []:
            found.append((name, _told(value)))
    return found


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(own) if isinstance(own, int) else _told(own) for own in value)
    return str(value)


def _scaled(amount: float, units: tuple[str, ...]) -> str:
    value, place = float(amount), 0
    while value >= 999.95 and place < len(units) - 1:
        value, place = value / 1000, place + 1
    return f"{value:.0f} {units[0]}".rstrip() if place == 0 else f"{value:.1f} {units[place]}"


def _signed(value: float) -> str:
    """With a minus sign as wide as the plus, so that columns align."""
    text = score(value)
    return text if text == "0.000" or text.startswith("−") else f"+{text}"
