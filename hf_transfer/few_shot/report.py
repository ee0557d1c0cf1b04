"""The tables of a few-shot comparison: accuracies over episodes or seeds, and what the tables do not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_transfer.compare.results import Cell
from hf_transfer.compare.tables import difference, markdown_table, scores_of, told, told_difference
from hf_transfer.few_shot.methods import REFERENCE, TRAINED, TRANSDUCTIVE
from hf_transfer.repeats import PairedDifference, Summary, paired_difference, summarise


__all__ = [
    "Outcome",
    "as_json",
    "episode_difference",
    "episode_remarks",
    "episode_table",
    "few_label_remarks",
    "few_label_table",
    "judged_by",
]


@dataclass
class Outcome:
    """
    What a method comes to on the episodes.

    Args:
        method (`str`): its name.
        accuracies (`dict[int, np.ndarray]`): for each number of shots `(S, E)`, the share of right queries by seed and
            episode.
        seconds (`float`): of training and test, of one seed.
        folders (`list[str]`, *optional*): of the trained models by seed, below the output folder.
        features_of (`str`, *optional*): the trained method on whose features it classifies; None for the pretrained.
    """

    method: str
    accuracies: dict[int, np.ndarray]
    seconds: float
    folders: list[str] = field(default_factory=list)
    features_of: str | None = None

    def by_episode(self, shots: int) -> dict[int, float]:
        """The mean over seeds for each episode."""
        return {number: float(value) for number, value in enumerate(self.accuracies[shots].mean(0))}

    def by_seed(self, shots: int) -> list[float]:
        """The mean over episodes for each seed."""
        return [float(value) for value in self.accuracies[shots].mean(1)]

    def summary(self, shots: int) -> Summary:
        """Mean and 95% interval over episodes."""
        return summarise(self.by_episode(shots))

    @property
    def seeds(self) -> int:
        """How often it was trained; 1 for what trains nothing."""
        return len(next(iter(self.accuracies.values())))


def episode_difference(outcome: Outcome, reference: Outcome, shots: int) -> PairedDifference | None:
    """How much more it gets right than the reference on the same episodes; None for the reference itself."""
    if outcome is reference:
        return None
    return paired_difference(outcome.by_episode(shots), reference.by_episode(shots))


def episode_table(outcomes: Sequence[Outcome], n_way: int) -> str:
    """
    A Markdown table: accuracy with its 95% interval, difference to the nearest mean episode by episode, in bold where
    its interval excludes zero, and seconds.

    Example:
        >>> accuracies = {"nearest_mean": [0.5, 0.6, 0.7], "tim": [0.6, 0.7, 0.8]}
        >>> print(episode_table([Outcome(name, {1: np.array([own])}, 0.5) for name, own in accuracies.items()], 5))
        | method | 5-way 1-shot | against nearest_mean | seconds |
        |---|---|---|---|
        | nearest_mean | 0.600 (0.352 to 0.848) | | 0.5 |
        | tim (transductive) | 0.700 (0.452 to 0.948) | **+0.100** (0.100 to 0.100) | 0.5 |
    """
    reference = next(outcome for outcome in outcomes if outcome.method == REFERENCE)
    shots = list(reference.accuracies)
    header = ["method"]
    for k in shots:
        header += [f"{n_way}-way {k}-shot", f"against {REFERENCE}"]
    rows = []
    for outcome in outcomes:
        row = [f"{outcome.method} (transductive)" if outcome.method in TRANSDUCTIVE else outcome.method]
        for k in shots:
            row += [told(outcome.by_episode(k)), told_difference(episode_difference(outcome, reference, k))]
        rows.append([*row, f"{outcome.seconds:.1f}"])
    return markdown_table([*header, "seconds"], rows)


def episode_remarks(outcomes: Sequence[Outcome], n_way: int) -> list[str]:
    """What the table does not say aloud: training that does not pay, balance that some methods know, seeds."""
    reference = next(outcome for outcome in outcomes if outcome.method == REFERENCE)
    found = []
    for k in reference.accuracies:
        where = f"{n_way}-way {k}-shot"
        inductive = [own for own in outcomes if own.method not in TRANSDUCTIVE]
        trained = [own for own in inductive if own.method in TRAINED]
        beaten = []
        for own in trained:
            gain = episode_difference(own, reference, k)
            if gain is not None and not (gain.mean > 0 and gain.excludes_zero):
                beaten.append(own.method)
        if beaten:
            found.append(
                f"Not better than {REFERENCE} on features of the pretrained model ({where}): {', '.join(beaten)}. "
                "Training on the base classes did not pay."
            )
        best = max(inductive, key=lambda own: own.summary(k).mean)
        found.append(f"The best that classifies each query by itself ({where}): {best.method}.")
    transductive = [own.method for own in outcomes if own.method in TRANSDUCTIVE]
    if transductive:
        found.append(
            f"{', '.join(transductive)}: all queries of an episode are seen at once, and every class has as many of "
            "them. Where that does not hold expect less."
        )
    repeated = [own for own in outcomes if own.seeds > 1]
    for own in repeated:
        for k in own.accuracies:
            spread = summarise(own.by_seed(k)).std
            found.append(f"{own.method}, {k}-shot: standard deviation {spread:.3f} over {own.seeds} trainings.")
    if any(own.method in TRAINED for own in outcomes) and not repeated:
        found.append("What is trained was trained once: repeat with `--seeds 3` or more for the spread of training.")
    return found


def judged_by(cells: Sequence[Cell]) -> str:
    """The score that few labels are compared by: of the test rows, or of the validation rows where there are none."""
    return "test_accuracy" if any("test_accuracy" in cell.scores for cell in cells) else "eval_accuracy"


def few_label_table(cells: Sequence[Cell]) -> str:
    """
    A Markdown table: accuracy of every method with its 95% interval over seeds, the difference to the nearest mean by
    seed, in bold where its interval excludes zero, and seconds of a run.

    Example:
        >>> scores = {"nearest_mean": 0.5, "probe": 0.7}
        >>> runs = [Cell(name, 0, "", "", {"test_accuracy": score}, {}, {"seconds": 2.0}) for name, score in
        ...         scores.items()]
        >>> print(few_label_table(runs))
        | method | test accuracy | against nearest_mean | seconds | seeds |
        |---|---|---|---|---|
        | nearest_mean | 0.500 | | 2.0 | 1 |
        | probe | 0.700 | +0.200 | 2.0 | 1 |
    """
    name = judged_by(cells)
    rows = []
    for method in dict.fromkeys(cell.method for cell in cells):
        seconds = list(scores_of(cells, method, "seconds").values())
        gain = difference(cells, method, name, against=REFERENCE)
        shown = f"{np.mean(seconds):.1f}" if seconds else ""
        count = str(sum(cell.method == method for cell in cells))
        rows.append([method, told(scores_of(cells, method, name)), told_difference(gain), shown, count])
    header = ["method", name.replace("eval_", "validation ").replace("_", " "), f"against {REFERENCE}"]
    return markdown_table([*header, "seconds", "seeds"], rows)


def few_label_remarks(cells: Sequence[Cell]) -> list[str]:
    """What the table does not say aloud: methods that lose to the nearest mean, runs that diverged, too few seeds."""
    name = judged_by(cells)
    found = []
    for method in dict.fromkeys(cell.method for cell in cells):
        gain = difference(cells, method, name, against=REFERENCE)
        if gain is not None and gain.mean < 0:
            sure = ", more than chance explains" if gain.excludes_zero else ""
            found.append(f"{method} loses {-gain.mean:.3f} against {REFERENCE} of the pretrained features{sure}.")
        elif gain is not None and (gain.mean == 0 or gain.excludes_zero is False):
            found.append(f"{method} is not told from {REFERENCE} by these seeds.")
        broken = [cell.seed for cell in cells if cell.method == method and None in cell.scores.values()]
        if broken:
            found.append(f"{method} diverged with seed {', '.join(map(str, broken))}: a score is not finite.")
    if not any("eval_accuracy" in cell.scores for cell in cells):
        found.append("There is no validation split: the kept model was chosen by the rows that it is scored on.")
    if len({cell.seed for cell in cells}) == 1:
        found.append("One seed says nothing about the spread: repeat with `--seeds 5` or more.")
    return found


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Mean, interval and difference of every method for each number of shots."""
    reference = next(outcome for outcome in outcomes if outcome.method == REFERENCE)
    found: dict[str, Any] = {}
    for own in outcomes:
        for k in own.accuracies:
            name, summary = f"{own.method}_{k}_shot_accuracy", own.summary(k)
            gain = episode_difference(own, reference, k)
            found |= {name: summary.mean, f"{name}_interval": summary.interval}
            if own.seeds > 1:
                found[f"{name}_by_seed"] = own.by_seed(k)
            if gain is not None:
                found[f"{name}_difference"] = gain.mean
                found[f"{name}_difference_interval"] = gain.interval
        found[f"{own.method}_seconds"] = own.seconds
    return found
