"""What scores over several seeds say: mean, spread and interval, and whether one method beats another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


__all__ = ["PairedDifference", "Summary", "paired_difference", "repeats_table", "summarise"]


@dataclass(frozen=True)
class Summary:
    """
    Scores of one method over seeds.

    Args:
        mean (`float`): their mean.
        std (`float`, *optional*): sample standard deviation (one degree of freedom taken off); `None` for one score.
        interval (`tuple[float, float]`, *optional*): interval that holds the true mean with the chosen confidence;
            `None` for one score, which says nothing about the spread.
        n (`int`): number of scores.
    """

    mean: float
    std: float | None
    interval: tuple[float, float] | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2


@dataclass(frozen=True)
class PairedDifference(Summary):
    """Differences of two methods, seed by seed; the fields are those of [`Summary`]."""

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the interval holds no zero, so that one method is better than the other; `None` without one."""
        return None if self.interval is None else not self.interval[0] <= 0 <= self.interval[1]


def summarise(scores: Mapping[int, float] | Iterable[float], *, confidence: float = 0.95) -> Summary:
    r"""
    Mean, sample standard deviation and Student interval of the scores of one method.

    $$ \bar x \pm t_{(1 + c) / 2,\, n - 1} \frac{s}{\sqrt{n}}, \qquad s^2 = \frac{1}{n - 1} \sum_i (x_i - \bar x)^2 $$

    The interval is right for independent, roughly normal scores. Seeds of one data split share its luck: the interval
    then speaks of other seeds, not of other data.

    Args:
        scores (`Mapping[int, float]` or `Iterable[float]`):
            One score for each seed.
        confidence (`float`, *optional*, defaults to 0.95):
            Confidence $c$ in (0, 1).

    Degenerate:
        One score has no spread: `std` and `interval` are `None`.

    Raises:
        ValueError: without scores, for a score that is not finite, or a confidence outside (0, 1).
        ImportError: without SciPy, for more than one score.

    Example:
        >>> summary = summarise([0.80, 0.82, 0.81])
        >>> round(summary.mean, 3), round(summary.std, 3), [round(end, 3) for end in summary.interval]
        (0.81, 0.01, [0.785, 0.835])
    """
    return Summary(*_statistics(scores, confidence))


def paired_difference(
    scores: Mapping[int, float], baseline: Mapping[int, float], *, confidence: float = 0.95
) -> PairedDifference:
    """
    How much better one method is than another on the same seeds: what the seeds have in common cancels.

    Args:
        scores (`Mapping[int, float]`):
            Scores of the method by seed.
        baseline (`Mapping[int, float]`):
            Scores of the other method, by the same seeds.
        confidence (`float`, *optional*, defaults to 0.95):
            Confidence of the interval, in (0, 1).

    Raises:
        ValueError: if the seeds differ, and as [`summarise`] does.

    Example:
        >>> difference = paired_difference({0: 0.83, 1: 0.74, 2: 0.91}, {0: 0.80, 1: 0.70, 2: 0.88})
        >>> round(difference.mean, 3), difference.excludes_zero
        (0.033, True)
    """
    if set(scores) != set(baseline):
        alone = sorted(map(str, set(scores) ^ set(baseline)))
        raise ValueError(
            f"Seeds {', '.join(alone)} have a score of one method only: pairs would be of different runs. Run both "
            "methods on the same seeds, or compare their separate intervals with `summarise`."
        )
    return PairedDifference(*_statistics([scores[seed] - baseline[seed] for seed in scores], confidence))


def repeats_table(
    methods: Mapping[str, Mapping[int, float]],
    *,
    baseline: str | None = None,
    confidence: float = 0.95,
    digits: int = 3,
) -> str:
    """
    A Markdown table of the scores of several methods over seeds.

    Args:
        methods (`Mapping[str, Mapping[int, float]]`):
            Scores by seed, by name of the method.
        baseline (`str`, *optional*):
            The method that all others are compared with, pair by pair where they share all seeds. A difference whose
            interval excludes zero is bold.
        confidence (`float`, *optional*, defaults to 0.95):
            Confidence of the intervals.
        digits (`int`, *optional*, defaults to 3):
            Digits after the point.

    Raises:
        ValueError: if there is no method, or none called `baseline`; and as [`summarise`] does.

    Example:
        >>> print(repeats_table({"full": {0: 0.80, 1: 0.70}, "probe": {0: 0.79, 1: 0.61}}, baseline="full", digits=2))
        | method | mean | std | 95% interval | seeds | against full |
        |---|---|---|---|---|---|
        | full | 0.75 | 0.07 | 0.11 to 1.39 | 2 | |
        | probe | 0.70 | 0.13 | -0.44 to 1.84 | 2 | -0.05 (-0.56 to 0.46) |
    """
    if not methods or (baseline is not None and baseline not in methods):
        raise ValueError(
            f"`baseline={baseline!r}` with the methods {', '.join(methods) or 'none'}: there is nothing to compare. "
            "Give the scores of at least one method, and as `baseline` the name of one of them or None."
        )
    columns = ["method", "mean", "std", f"{100 * confidence:.4g}% interval", "seeds"]
    columns += [] if baseline is None else [f"against {baseline}"]
    rows = []
    for name, scores in methods.items():
        summary = summarise(scores, confidence=confidence)
        std = "" if summary.std is None else f"{summary.std:.{digits}f}"
        row = [name, f"{summary.mean:.{digits}f}", std, _range(summary, digits), str(summary.n)]
        if baseline is not None:
            row.append(_against(scores, methods[baseline], confidence, digits) if name != baseline else "")
        rows.append(row)
    lines = ["|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in [columns, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


def _against(scores: Mapping[int, float], baseline: Mapping[int, float], confidence: float, digits: int) -> str:
    if set(scores) != set(baseline):
        return "other seeds"
    difference = paired_difference(scores, baseline, confidence=confidence)
    mean = f"{difference.mean:+.{digits}f}"
    if difference.interval is None:
        return mean
    return f"{f'**{mean}**' if difference.excludes_zero else mean} ({_range(difference, digits)})"


def _range(summary: Summary, digits: int) -> str:
    return "" if summary.interval is None else " to ".join(f"{end:.{digits}f}" for end in summary.interval)


def _statistics(
    scores: Mapping[int, float] | Iterable[float], confidence: float
) -> tuple[float, float | None, tuple[float, float] | None, int]:
    values = [float(score) for score in (scores.values() if isinstance(scores, Mapping) else scores)]
    if not 0 < confidence < 1:
        raise ValueError(
            f"`confidence={confidence}` is outside (0, 1): no interval has it. Give a share such as 0.95."
        )
    if not values:
        raise ValueError("There are no scores: nothing can be said of the method. Give one for each seed.")
    if not all(map(math.isfinite, values)):
        raise ValueError(
            f"The scores {values} hold one that is not finite: it would swallow all others. Find out why that run "
            "diverged, and repeat it or leave its seed out of every method."
        )
    # exact fractions: equal scores have a spread of exactly zero
    mean = statistics.mean(values)
    if len(values) == 1:
        return mean, None, None, 1
    std = statistics.stdev(values)
    half = _student_quantile((1 + confidence) / 2, len(values) - 1) * std / math.sqrt(len(values))
    return mean, std, (mean - half, mean + half), len(values)


def _student_quantile(probability: float, degrees: int) -> float:
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ImportError(
            "The interval of several scores needs SciPy, which is not installed: Student's t has no closed form. Run "
            "`pip install scikit-learn`, which brings it along."
        ) from error
    return float(t.ppf(probability, degrees))
