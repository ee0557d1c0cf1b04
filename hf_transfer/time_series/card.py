"""What the model card of a forecaster says beside what its run knows."""

from __future__ import annotations

from collections.abc import Sequence

from hf_transfer.compare.results import Cell
from hf_transfer.model_card.facts import Baseline, DataFacts, RunFacts, Score
from hf_transfer.model_card.naming import public_name
from hf_transfer.repeats import summarise
from hf_transfer.time_series.comparison import SeriesComparison
from hf_transfer.time_series.report import ShareFinding, error_table, share_name
from hf_transfer.time_series.series import step_name
from hf_transfer.time_series.strategies import BASELINES, STRATEGIES, UNTRANSFERRED, ZERO_SHOT


TASK = "time-series-forecasting"
"""As the Hub calls it."""

_METRICS = ("mse", "mae", "mase")

__all__ = ["TASK", "tell_of_series"]


def tell_of_series(
    facts: RunFacts,
    comparison: SeriesComparison,
    found: ShareFinding,
    kept: Cell,
    remarks: Sequence[str],
) -> None:
    """
    Put series, errors and comparison into the facts of the kept model.

    Args:
        facts (`RunFacts`): of the run that trained it; changed.
        comparison (`SeriesComparison`): one that has run.
        found ([`ShareFinding`]): on the share of the kept run.
        kept (`Cell`): the run whose model was kept.
        remarks (`Sequence[str]`): what the report says beside its tables.
    """
    recipe, target = comparison.recipe, comparison.target
    name = kept.method.partition("@")[0]
    facts.task, facts.inputs = TASK, ["series"]
    if name in UNTRANSFERRED:
        facts.base_model = facts.base_hub_id = facts.base_revision = facts.relation = None
    about = "the pretrained model as it is" if name == ZERO_SHOT else STRATEGIES[name].about
    facts.strategy = [said for said in facts.strategy if not said.startswith("It starts from")]
    facts.strategy.insert(0, f"{name}: {about}.")
    facts.strategy.insert(0, _origin(comparison, name))
    facts.strategy.append(
        f"From {recipe.context_length} rows it forecasts the next {recipe.prediction_length} of "
        f"{len(target.channels)} channels ({', '.join(f'`{channel}`' for channel in target.channels[:20])}); a row is "
        f"{step_name(target)}. It learned from {share_name(found.share)}."
    )
    facts.data = [_data(comparison, found.share)]
    if name not in UNTRANSFERRED:
        facts.data += [
            DataFacts(public_name(source.name)[0] or "", "source", {"train": len(source)}, public_name(source.name)[1])
            for source in comparison.sources
        ]
    facts.method, facts.seeds = name, sorted(found.runs[name])
    facts.scores = [_score(found, name, metric, kept) for metric in _METRICS]
    facts.baselines = []
    for other in (*UNTRANSFERRED, *BASELINES):
        difference = found.against.get(other, {}).get(name)
        if other == name or other not in found.runs or difference is None:
            continue
        interval = None if difference.low is None or difference.high is None else (difference.low, difference.high)
        plain = Score("mse", found.mse(other), "test")
        facts.baselines.append(Baseline(other, plain, difference.mean, interval))
    facts.comparison = error_table(found)
    facts.notes += [said for said in remarks if not said.startswith("Recommended")]
    facts.limits += [
        "MSE and MAE are in units of the standard deviation of each channel over the training part, MASE in units of "
        f"the error of the seasonal naive forecast there (season: {comparison.season} rows).",
        "Test windows overlap; intervals are over blocks of time and hold as far as the time of the test is like that "
        "to come.",
        "It knows the series alone: no holidays, no weather, no news.",
    ]


def _origin(comparison: SeriesComparison, name: str) -> str:
    if name in UNTRANSFERRED:
        return "It starts from random weights."
    if comparison.recipe.source_series:
        names = ", ".join(f"`{public_name(source.name)[0]}`" for source in comparison.sources)
        how = "filling in masked patches" if comparison.model_args.pretraining == "masked" else "forecasting"
        return f"It starts from a model that was pretrained by {how} of {names}."
    return f"It starts from `{public_name(comparison.model_args.model_name_or_path)[0]}`."


def _data(comparison: SeriesComparison, share: float) -> DataFacts:
    parts = comparison.shares[share].parts
    told, hub_id, _ = public_name(comparison.recipe.target_series)
    rows = {"train": len(parts.known), "validation": len(parts.eval), "test": len(parts.test)}
    return DataFacts(told or "", "target", rows, hub_id)


def _score(found: ShareFinding, name: str, metric: str, kept: Cell) -> Score:
    by_seed = {seed: own.scores[metric] for seed, own in found.runs[name].items()}
    value = float(kept.scores[f"test_{metric}"] or 0.0)
    if len(by_seed) < 2:
        return Score(metric, value, "test")
    summary = summarise(by_seed)
    return Score(metric, value, "test", summary.mean, summary.interval, list(by_seed.values()))
