"""Sentences of a report that do not depend on where they stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hf_transfer.compare.answer import NEGATIVE, POSITIVE, UNDECIDED, ClassVerdict
from hf_transfer.compare.outcome import ComparisonResults
from hf_transfer.compare.report import words


__all__ = ["choice", "class_summary", "extent", "nothing_recommended", "reading", "subject", "verdict_words"]


def subject(results: ComparisonResults) -> str:
    """What was compared on: the name of the data, else the task."""
    return str(results.data.get("name") or results.data.get("dataset_name") or results.task.replace("-", " "))


def extent(results: ComparisonResults) -> str:
    """How much was compared, and how long it took."""
    rows = results.answer.rows
    strategies, models = len({row.strategy for row in rows}), len({row.model for row in rows})
    seeds = max((len(row.seeds) for row in rows), default=0)
    parts = [_many(strategies, "strategy", "strategies"), _many(models, "model"), _many(seeds, "seed")]
    return (
        f"{results.task.replace('-', ' ').capitalize()}: {words.joined(parts)}, in {words.duration(results.seconds)}."
    )


def nothing_recommended(results: ComparisonResults) -> str:
    """Why there is no recommendation."""
    open_ = [row for row in results.answer.rows if row.status != "finished"]
    if len(open_) == len(results.answer.rows):
        return "No run was finished. The table says why."
    return "No strategy that starts from the pretrained model has a score. The table says what there is."


def verdict_words(results: ComparisonResults) -> str:
    """The sentence of the verdict, without the words of the sign beside which it stands."""
    verdict = results.answer.verdict
    _, name = words.VERDICTS.get(verdict.verdict, ("", ""))
    said = verdict.sentence.removeprefix(f"{name}: ")
    return said[:1].upper() + said[1:] if said != verdict.sentence and said.split(" ")[0] == "the" else said


def choice(results: ComparisonResults) -> str:
    """What the choice was made by."""
    said = f"The choice was made by {words.metric_name(results.metric)} on validation rows alone."
    if any(row.test is not None for row in results.answer.rows):
        said += (
            " Test rows took no part in any choice: their scores stand beside, to check the recommendation on rows "
            "that nothing was chosen by."
        )
    return f"{said} All that are trained step by step had the same rows, the same new head and the same steps."


def class_summary(classes: Sequence[ClassVerdict]) -> str:
    """
    For how many classes transfer helped.

    Example:
        >>> from hf_transfer.compare.answer import Difference
        >>> class_summary([ClassVerdict("ants", 9, Difference(0.1), "positive")] * 2)
        'Transfer helps 2 classes, hurts 0, and is undecided for 0.'
    """
    found = Counter(own.verdict for own in classes)
    helped = _many(found[POSITIVE], "class", "classes")
    return f"Transfer helps {helped}, hurts {found[NEGATIVE]}, and is undecided for {found[UNDECIDED]}."


def reading(results: ComparisonResults) -> list[str]:
    """What the intervals mean, in plain words."""
    found = [
        "An interval says within which bounds the true score likely lies: had other rows of the same kind been drawn, "
        "and other seeds, intervals made in this way would hold it 95 times in 100. It is wide where rows or seeds "
        "are few.",
        "Strategies are compared row by row on the same rows and seeds, which tells more than their two intervals: "
        "these may overlap although one strategy is surely better. Where the interval of the difference holds zero, "
        "the two are called tied. Of those tied with the best, the cheapest is recommended.",
        "From scratch is the same architecture without pretrained weights, and the majority class is the answer that "
        "needs no input. Transfer helps where the best strategy that starts from the pretrained model beats both, and "
        "hurts where it is beaten. With intervals that hold zero it is undecided, which is not the same as no effect.",
        "Training times are those of this machine. Trained weights are what a strategy changes, and size on disk is "
        "what must be kept for this task: for an adapter, the adapter alone.",
    ]
    if any(row.validation is not None and row.validation.low is None for row in results.answer.rows):
        found.append("Scores without an interval come from too few runs or rows to tell one.")
    return found


def _many(number: int, word: str, plural: str | None = None) -> str:
    return f"{number} {word if number == 1 else plural or word + 's'}"
