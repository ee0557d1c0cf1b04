"""Whether transfer helped: the best strategy against training from scratch and the majority class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_transfer.compare.answer import NEGATIVE, POSITIVE, UNDECIDED, ClassVerdict, Difference, Verdict
from hf_transfer.compare.judging.differences import Key, Runs, class_differences, common_seeds, mean
from hf_transfer.compare.judging.recommending import MAJORITY, SCRATCH, Standing
from hf_transfer.compare.judging.wording import figure, with_interval


FEW_ROWS = 10
"""A class with fewer rows that validate is undecided."""

__all__ = ["FEW_ROWS", "class_verdicts", "judge"]


def judge(found: Standing, *, label_names: Sequence[str] = (), seed: int = 0) -> Verdict:
    """
    Whether the best strategy that starts from the pretrained model beats training from scratch and the majority class.

    Positive if it beats both beyond doubt (scratch alone where no majority class was run), negative if one of them
    beats it beyond doubt, else undecided. As the best was picked by its mean, all candidates against all baselines
    have intervals that hold together with 95% (max-t); [`standing`] tells of the upper end. Of several models trained
    from scratch the best counts.

    Args:
        found (`Standing`): of the strategies on the rows that validate.
        label_names (`Sequence[str]`, *optional*): of the classes, for verdicts class by class.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Degenerate:
        Undecided where no candidate finished, or none has a seed in common with a run from scratch. With one seed the
        verdict is on these trained models, and the sentence says so.

    Example:
        >>> import numpy as np
        >>> from hf_transfer.compare.judging.recommending import standing
        >>> from hf_transfer.compare.judging.row_scores import RowScores
        >>> rows, ones = np.arange(60), np.ones(60)
        >>> parts = {"full": rows % 6 > 0, "scratch": rows % 2 > 0}
        >>> runs = {("m", name): {0: RowScores(rows, right * 1.0, ones)} for name, right in parts.items()}
        >>> judge(standing(runs)).verdict
        'positive'
    """
    leader = found.leader
    if leader is None:
        sentence = "Undecided: no strategy that starts from the pretrained model finished."
        return Verdict(UNDECIDED, sentence)
    scratch, majority = found.baseline(SCRATCH), found.baseline(MAJORITY)
    over_scratch = None if scratch is None else found.against_baselines[leader, scratch]
    over_majority = None if majority is None else found.against_baselines[leader, majority]
    verdict = _verdict(over_scratch, over_majority)
    sentence = _sentence(found, leader, verdict, over_scratch, over_majority)
    classes = []
    if scratch is not None:
        classes = class_verdicts(found.runs, leader, scratch, label_names=label_names, seed=seed)
    return Verdict(verdict, sentence, over_scratch, over_majority, classes)


def class_verdicts(
    runs: Runs, best: Key, scratch: Key, *, label_names: Sequence[str] = (), seed: int = 0
) -> list[ClassVerdict]:
    """
    Recall of one strategy less that of another, class by class, with intervals that hold for all classes together.

    Args:
        runs (`Runs`): of both.
        best (`Key`): the strategy that starts from the pretrained model.
        scratch (`Key`): the one that does not.
        label_names (`Sequence[str]`, *optional*): of the classes; their numbers by default.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Degenerate:
        A class of fewer than 10 rows is undecided and has no interval. Tokens and regressions have no classes of rows:
        an empty list.
    """
    rows = _rows_by_class(runs, best, scratch)
    enough = [number for number, count in sorted(rows.items()) if count >= FEW_ROWS]
    found = class_differences(runs, best, scratch, enough, seed=seed)
    for number in rows.keys() - found.keys():
        found[number] = Difference(class_differences(runs, best, scratch, [number], seed=seed)[number].mean)
    return [
        ClassVerdict(_label(number, label_names), rows[number], found[number], _sign(found[number]))
        for number in sorted(found)
    ]


def _rows_by_class(runs: Runs, first: Key, second: Key) -> dict[int, int]:
    """Different rows of every class in the seeds that both have."""
    seen: dict[int, set[int]] = {}
    for seed in common_seeds(runs, first, second):
        run, other = runs[first][seed], runs[second][seed]
        if run.labels is not None:
            shared = np.isin(run.ids, other.ids) & (run.weights > 0)
            for number in np.unique(run.labels[shared]).tolist():
                seen.setdefault(int(number), set()).update(run.ids[shared & (run.labels == number)].tolist())
    return {number: len(ids) for number, ids in seen.items()}


def _label(number: int, names: Sequence[str]) -> str:
    return str(names[number]) if 0 <= number < len(names) else str(number)


def _sign(pair: Difference) -> str:
    if not pair.decided:
        return UNDECIDED
    return POSITIVE if pair.mean > 0 else NEGATIVE


def _verdict(over_scratch: Difference | None, over_majority: Difference | None) -> str:
    signs = [_sign(pair) for pair in (over_scratch, over_majority) if pair is not None]
    if NEGATIVE in signs:
        return NEGATIVE
    return POSITIVE if over_scratch is not None and UNDECIDED not in signs else UNDECIDED


def _sentence(
    found: Standing, leader: Key, verdict: str, over_scratch: Difference | None, over_majority: Difference | None
) -> str:
    score = f"{found.name(leader)} ({figure(mean(found.runs, leader))})"
    named = [(found.words(SCRATCH), over_scratch), (found.words(MAJORITY), over_majority)]
    parts = [(words, pair) for words, pair in named if pair is not None]
    if verdict == POSITIVE:
        gains = " and ".join(f"{words} by {with_interval(pair)}" for words, pair in parts)
        said = f"Transfer helps: {score} beats {gains}."
    elif verdict == NEGATIVE:
        losses = " and ".join(f"{w} (difference {with_interval(p)})" for w, p in parts if _sign(p) == NEGATIVE)
        said = f"Transfer hurts: {score}, the best that starts from a pretrained model, is worse than {losses}."
    elif over_scratch is None:
        said = "Undecided: there is no run from scratch to compare with, so it is open whether transfer helps."
    else:
        open_ = " or from ".join(f"{w} (difference {with_interval(p)})" for w, p in parts if _sign(p) == UNDECIDED)
        said = f"Undecided: {score} cannot be told from {open_}. More validation rows or more seeds would tell."
    if over_majority is not None and over_majority.mean <= 0:
        said += f" Nothing beats {found.words(MAJORITY)}: no strategy is worth taking."
    baselines = [found.baseline(SCRATCH), found.baseline(MAJORITY)]
    fewest = min((len(common_seeds(found.runs, leader, key)) for key in baselines if key is not None), default=0)
    if fewest == 1:
        said += " One seed was run: this is said of these trained models on other rows, not of other seeds."
    return said
