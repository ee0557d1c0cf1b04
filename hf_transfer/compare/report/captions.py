"""Titles, captions and descriptions of the figures of a report."""

from __future__ import annotations

from dataclasses import dataclass

from hf_transfer.compare.outcome import ComparisonResults
from hf_transfer.compare.report import words
from hf_transfer.compare.report.class_plots import COUNTED


__all__ = ["Caption", "captions"]


@dataclass(frozen=True)
class Caption:
    """
    Words around a figure.

    Args:
        title (`str`): above it.
        caption (`str`): below it.
        alt (`str`): what is to be seen, for who cannot see it.
        wide (`bool`): whether it needs more room than a phone has, and is moved sideways there.
        light (`bool`): whether its paper is white by night too.
    """

    title: str
    caption: str
    alt: str
    wide: bool = False
    light: bool = False


def captions(results: ComparisonResults) -> dict[str, Caption]:
    """
    The figures that results have something for, by the name of their function in `plots`.

    Args:
        results (`ComparisonResults`): of a comparison.
    """
    answer, metric = results.answer, words.metric_name(results.metric)
    scored = [row for row in answer.rows if row.validation is not None]
    found: dict[str, Caption] = {}
    if scored:
        told = "; ".join(f"{row.strategy} on {row.model} {words.score(row.validation.mean)}"
                         for row in scored if row.validation)  # fmt: skip
        found["accuracy"] = Caption(
            f"{_capital(metric)} of all strategies",
            "Filled: validation rows, by which the choice was made. Hollow: test rows, which took no part in it. "
            "Grey: baselines.",
            f"Dots with intervals, one line for each strategy. {_capital(metric)} on validation rows: {told}.",
        )
        told = "; ".join(f"{row.strategy} on {row.model} {words.duration(row.costs.seconds)}" for row in scored)
        found["cost"] = Caption(
            f"{_capital(metric)} against training time",
            "Further up is better, further left is cheaper. The recommended strategy is orange, baselines are grey. "
            "Baselines far below the others are named with their scores at the foot.",
            f"Dots by training time and {metric}. Training times: {told}.",
        )
    if answer.curve:
        told = "; ".join(f"{p.strategy} with {p.rows} rows {words.score(p.score.mean)}" for p in answer.curve)
        found["learning_curve"] = Caption(
            "Learning curve",
            "Scores of the leaders with fewer labels; the bands are intervals.",
            f"Lines by the number of labelled rows. {_capital(metric)}: {told}.",
        )
    found |= _of_winner(results)
    return found


def _of_winner(results: ComparisonResults) -> dict[str, Caption]:
    found = {}
    if results.confusion:
        classes = len(results.confusion)
        right = sum(line[place] for place, line in enumerate(results.confusion))
        rows = sum(map(sum, results.confusion))
        found["confusion"] = Caption(
            "What it takes for what",
            "A line for each true class, a column for each class it was taken for; the darker, the larger the share "
            "of the line. Rows that validate, over all seeds.",
            f"A grid of {classes} by {classes} classes. {right} of {rows} rows are on the diagonal, which is right.",
            wide=classes > COUNTED,
            light=True,
        )
    if results.features is not None:
        same = "" if results.features.after is not None else " The recommended strategy leaves them as they are."
        found["features"] = Caption(
            "Features in two dimensions",
            f"Each point is a validation row, by {results.features.method} of what the head of the model is given. "
            f"Classes that lie apart are easy to tell.{same}",
            f"{len(results.features.labels)} points of {len(set(results.features.labels))} classes, by the pretrained "
            f"model{'' if same else ' and after training'}.",
        )
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
