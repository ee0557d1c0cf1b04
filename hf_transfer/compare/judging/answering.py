"""From the scores of all rows of all runs to the answer of a comparison."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hf_transfer.compare.answer import Answer, Difference, Outlook, TableRow
from hf_transfer.compare.cells import FAILED, FINISHED, Costs
from hf_transfer.compare.judging.curves import Curve, curve_points, more_labels, other_strategies
from hf_transfer.compare.judging.differences import Key, Runs, estimates, mean
from hf_transfer.compare.judging.recommending import MAJORITY, SCRATCH, Standing, recommend, standing
from hf_transfer.compare.judging.verdicts import judge


__all__ = ["answer"]


def answer(
    validation: Runs,
    test: Runs,
    costs: Mapping[Key, Costs],
    *,
    baselines: Collection[str] = (MAJORITY, SCRATCH),
    reasons: Mapping[Key, str] | None = None,
    statuses: Mapping[Key, str] | None = None,
    curve: Curve | None = None,
    label_names: Sequence[str] = (),
    commands: Mapping[Key, str] | None = None,
    notes: Mapping[Key, str] | None = None,
    seed: int = 0,
) -> Answer:
    """
    Table, recommendation, verdict, learning curve and outlook. Only validation rows take part in choices; test rows
    fill a column of the table.

    Args:
        validation (`Runs`): scores of the rows that validate, by strategy and seed, of finished runs.
        test (`Runs`): the same of the test rows; may be empty.
        costs (`Mapping[Key, Costs]`): means over the seeds of a strategy.
        baselines (`Collection[str]`, *optional*): names of strategies that are never recommended. `majority` and
            `scratch` are those that the verdict is about.
        reasons (`Mapping[Key, str]`, *optional*): why a strategy has no runs, or fewer than others.
        statuses (`Mapping[Key, str]`, *optional*): `failed` or `skipped`, for strategies without a run; by default
            `failed`.
        curve (`Curve`, *optional*): points of the learning curves, those with all rows among them.
        label_names (`Sequence[str]`, *optional*): of the classes.
        commands (`Mapping[Key, str]`, *optional*): that run a strategy alone.
        notes (`Mapping[Key, str]`, *optional*): what is to be told of its runs.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Returns:
        `Answer`: rows are in the order of their mean on the validation rows, those without one last.

    Example:
        >>> import numpy as np
        >>> from hf_transfer.compare.judging.row_scores import RowScores
        >>> rows, ones = np.arange(60), np.ones(60)
        >>> parts = {"scratch": rows % 2 > 0, "full": rows % 6 > 0, "lora": rows % 5 > 0}
        >>> runs = {("m", name): {0: RowScores(rows, right * 1.0, ones)} for name, right in parts.items()}
        >>> costs = {("m", "full"): Costs(10.0), ("m", "lora"): Costs(2.0)}
        >>> found = answer(runs, {}, costs, reasons={("m", "dann"): "no target"})
        >>> found.recommendation.strategy, found.verdict.verdict, [row.strategy for row in found.rows]
        ('lora', 'positive', ['full', 'lora', 'scratch', 'dann'])
    """
    reasons, statuses, commands, notes = reasons or {}, statuses or {}, commands or {}, notes or {}
    found = standing(validation, baselines=baselines, seed=seed)
    scored, tested = estimates(found.runs, seed=seed), estimates(test, seed=seed)
    rows = [
        TableRow(
            *key,
            status=FINISHED if key in found.runs else statuses.get(key, FAILED),
            reason=reasons.get(key),
            seeds=sorted(found.runs.get(key, ())),
            validation=scored.get(key),
            test=tested.get(key),
            against_best=found.against_best.get(key),
            against_scratch=_against_scratch(found, key),
            tied=key in found.tied,
            costs=costs.get(key, Costs()),
            command=commands.get(key, ""),
            note=notes.get(key, ""),
        )
        for key in _in_order(found, [*validation, *costs, *reasons, *statuses])
    ]
    recommendation = recommend(found, costs)
    chosen = found.leader if recommendation is None else (recommendation.model, recommendation.strategy)
    outlook = None
    if chosen is not None:
        labels = more_labels(curve or {}, chosen, name=found.name(chosen), seed=seed)
        outlook = Outlook(labels, other_strategies(found, chosen))
    return Answer(
        rows=rows,
        recommendation=recommendation,
        verdict=judge(found, label_names=label_names, seed=seed),
        curve=curve_points(curve, seed=seed) if curve else (),
        outlook=outlook,
    )


def _against_scratch(found: Standing, key: Key) -> Difference | None:
    """To the run from scratch of the same base model."""
    return found.against_baselines.get((key, (key[0], SCRATCH)))


def _in_order(found: Standing, keys: Sequence[Key]) -> list[Key]:
    means = {key: mean(found.runs, key) for key in found.runs}
    return sorted(set(keys), key=lambda key: (-means.get(key, float("-inf")), key))
