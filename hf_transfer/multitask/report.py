"""`compare_tasks`: every task against the model that learned it alone, and whether the others help or hurt it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_transfer.compare.tables import markdown_table
from hf_transfer.files import whole_file
from hf_transfer.functional.bootstrap import paired_intervals
from hf_transfer.multitask.scoring import LESS_IS_BETTER, ROW_METRIC, RowScores
from hf_transfer.multitask.task import Task
from hf_transfer.repeats import Summary, summarise


__all__ = ["TaskChange", "TaskReport", "compare_tasks"]


@dataclass(frozen=True)
class TaskChange:
    """
    What learning with the other tasks does to one.

    Args:
        task (`str`): its name.
        metric (`str`): what is compared: the mean over rows.
        alone (`float`): score of the models of this task alone, mean over seeds.
        together (`float`): score of the models of all tasks.
        change (`float`, *optional*): signed relative change, positive where the others help; `None` where the score
            alone is zero, which nothing is relative to.
        interval (`tuple[float, float]`): of that change, over rows and seeds; where `change` is `None`, of the
            difference of the scores.
        verdict (`str`): `helps`, `hurts` (negative transfer) or `undecided`.
        seeds (`int`): runs of each.
        rows (`int`): labelled rows that were scored.
    """

    task: str
    metric: str
    alone: float
    together: float
    change: float | None
    interval: tuple[float, float]
    verdict: str
    seeds: int
    rows: int


@dataclass(frozen=True)
class TaskReport:
    """
    All tasks of a comparison; prints as a table.

    Args:
        changes (`Sequence[TaskChange]`): by task.
        overall (`Summary`, *optional*): of $\\Delta_m$ over seeds; `None` where a task has no relative change.
        confidence (`float`): of every interval, each alone.
    """

    changes: Sequence[TaskChange]
    overall: Summary | None
    confidence: float = 0.95

    def table(self) -> str:
        """A Markdown table, a task a line; bold where the interval excludes zero."""
        header = ["task", "score", "alone", "together", "relative change", f"{100 * self.confidence:g}% interval"]
        rows = []
        for own in self.changes:
            change = "" if own.change is None else f"{own.change:+.1%}"
            sure = own.verdict != "undecided" and change
            spread = " to ".join(_share(end, own.change) for end in own.interval)
            scores = [f"{own.alone:.3f}", f"{own.together:.3f}"]
            rows.append([own.task, own.metric, *scores, f"**{change}**" if sure else change, spread, own.verdict])
        if self.overall is not None:
            ends = self.overall.interval
            spread = "" if ends is None else " to ".join(f"{end:+.1%}" for end in ends)
            rows.append(["mean", "", "", "", f"{self.overall.mean:+.1%}", spread, ""])
        return markdown_table([*header, "the others"], rows)

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "tasks": {own.task: asdict(own) for own in self.changes},
            "delta_m": None if self.overall is None else self.overall.mean,
            "delta_m_interval": None if self.overall is None else self.overall.interval,
            "confidence": self.confidence,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write [`as_dict`] as a JSON file."""
        with whole_file(Path(path)) as unfinished:
            unfinished.write_text(json.dumps(self.as_dict(), indent=4), encoding="utf-8")

    def __str__(self) -> str:
        return self.table()


def compare_tasks(
    tasks: Sequence[Task],
    together: Mapping[int, Mapping[str, RowScores]],
    alone: Mapping[int, Mapping[str, RowScores]],
    *,
    confidence: float = 0.95,
) -> TaskReport:
    r"""
    Every task learned with the others against the task learned alone.

    With $M_t$ the score of task $t$, the mean over its rows and the seeds, and $l_t = 1$ where less is better

    $$ \delta_t = (-1)^{l_t} \, \frac{M_t^{\text{together}} - M_t^{\text{alone}}}{M_t^{\text{alone}}}, \qquad
       \Delta_m = \frac{1}{T} \sum_t \delta_t $$

    The interval of $\delta_t$ is that of the paired difference by [`paired_intervals`], over rows and seeds, divided
    by $M_t^{\text{alone}}$; that of $\Delta_m$ is Student's over the $\Delta_m$ of single seeds. A task is helped or
    hurt where its interval excludes zero. Every interval holds alone: of many tasks that nothing changes one in twenty
    is called helped or hurt.

    Args:
        tasks (`Sequence[Task]`):
            The tasks that are compared.
        together (`Mapping[int, Mapping[str, RowScores]]`):
            By seed and task: scores of the rows by the model of all tasks.
        alone (`Mapping[int, Mapping[str, RowScores]]`):
            Likewise by the models of single tasks, of the same rows and seeds.
        confidence (`float`, *optional*, defaults to 0.95):
            Of the intervals, in (0, 1).

    Degenerate:
        One seed: intervals speak of other rows and not of other runs, and $\Delta_m$ has none. A score alone of zero
        has no relative change; the verdict is then that of the difference.

    Deviations from the paper:
        The paper has no intervals. What $M_t^{\text{alone}}$ in the denominator varies is left out of them.

    Raises:
        ValueError: if seeds differ, a task is missing, or the rows of a task differ.
        ImportError: without SciPy.

    Example:
        >>> right = np.ones(40)
        >>> right[:20] = 0
        >>> rows = np.ones(40)
        >>> alone = {0: {"topic": RowScores(right, rows)}}
        >>> report = compare_tasks([Task("topic", num_labels=2)], {0: {"topic": RowScores(rows, rows)}}, alone)
        >>> report.changes[0].change, report.changes[0].verdict
        (1.0, 'helps')

    Paper: Maninis et al., "Attentive Single-Tasking of Multiple Tasks", CVPR 2019, https://huggingface.co/papers/1904.08918
    """
    _check(tasks, together, alone)
    seeds = sorted(together)
    changes, relative = [], []
    for task in tasks:
        pairs = [(together[seed][task.name], alone[seed][task.name]) for seed in seeds]
        changes.append(_change(task, pairs, seeds, confidence))
        sign = -1 if changes[-1].metric in LESS_IS_BETTER else 1
        means = [(one.mean, other.mean) for one, other in pairs]
        relative.append([sign * (one - other) / other if other else None for one, other in means])
    by_seed = [[own[number] for own in relative] for number in range(len(seeds))]
    whole = all(value is not None for values in by_seed for value in values)
    overall = [float(np.mean([value for value in values if value is not None])) for values in by_seed] if whole else []
    return TaskReport(changes, summarise(overall, confidence=confidence) if overall else None, confidence)


def _change(
    task: Task, pairs: Sequence[tuple[RowScores, RowScores]], seeds: Sequence[int], confidence: float
) -> TaskChange:
    runs = [own for pair in pairs for own in pair]
    found = paired_intervals(
        np.stack([own.scores for own in runs], 1),
        np.stack([own.weights for own in runs], 1),
        [0, 1] * len(seeds),
        [seed for seed in seeds for _ in range(2)],
        [(0, 1)],
        confidence=confidence,
        familywise=False,
    )
    metric = ROW_METRIC[task.kind]
    sign = -1 if metric in LESS_IS_BETTER else 1
    together, alone = (float(np.mean([pair[side].mean for pair in pairs])) for side in (0, 1))
    scale = alone or 1.0
    low, high = sorted(sign * float(end) / scale for end in (found.low[0], found.high[0]))
    return TaskChange(
        task=task.name,
        metric=metric,
        alone=alone,
        together=together,
        change=sign * (together - alone) / alone if alone else None,
        interval=(low, high),
        verdict="helps" if low > 0 else "hurts" if high < 0 else "undecided",
        seeds=len(seeds),
        rows=int((runs[0].weights > 0).sum()),
    )


def _share(end: float, change: float | None) -> str:
    return f"{end:+.3f}" if change is None else f"{end:+.1%}"


def _check(
    tasks: Sequence[Task],
    together: Mapping[int, Mapping[str, RowScores]],
    alone: Mapping[int, Mapping[str, RowScores]],
) -> None:
    if not together or set(together) != set(alone):
        raise ValueError(
            f"Seeds {sorted(together)} together and {sorted(alone)} alone: runs cannot be paired. Run both with the "
            "same seeds, one at least."
        )
    for task in tasks:
        for seed in together:
            missing = "together" if task.name not in together[seed] else "alone"
            if task.name not in together[seed] or task.name not in alone[seed]:
                raise ValueError(
                    f"Task `{task.name}` has no scores {missing} with seed {seed}: it has nothing to be compared "
                    "with. Score every task in both runs, or leave it out of `tasks`."
                )
            weights = [runs[seed][task.name].weights for runs in (together, alone)]
            if not np.array_equal(weights[0], weights[1]):
                raise ValueError(
                    f"Task `{task.name}` was scored on other rows together ({len(weights[0])}) than alone "
                    f"({len(weights[1])}) with seed {seed}: their difference would be one of rows. Score both on the "
                    "same rows in the same order."
                )
