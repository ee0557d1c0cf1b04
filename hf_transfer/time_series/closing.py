"""What a finished forecast comparison leaves in its folder: the kept model, tables, figures and all_results.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from transformers.utils import logging

from hf_transfer.compare.results import Cell
from hf_transfer.compare.storage import plain
from hf_transfer.compare.tables import scores_by_name
from hf_transfer.files import whole_file
from hf_transfer.hub import push_result
from hf_transfer.model_card.facts import RunFacts
from hf_transfer.model_card.naming import public_name
from hf_transfer.model_card.recipes import write_run_card
from hf_transfer.model_card.storage import load_facts
from hf_transfer.time_series.card import TASK, tell_of_series
from hf_transfer.time_series.comparison import SeriesComparison
from hf_transfer.time_series.judging import block_length_of
from hf_transfer.time_series.plots import Panel, plot_few_data, plot_forecasts, plot_horizon
from hf_transfer.time_series.report import ShareFinding, as_json, error_table, find, horizon_table, remarks, share_name
from hf_transfer.time_series.scored import of_baseline, of_model
from hf_transfer.time_series.series import step_name
from hf_transfer.time_series.strategies import BASELINES, STRATEGIES
from hf_transfer.time_series.trainer import ForecastTrainer


WINDOWS, CHANNELS = 3, 2
"""Of forecasts.png."""

logger = logging.get_logger(__name__)

__all__ = ["close", "findings_of", "kept_cell"]


def close(comparison: SeriesComparison) -> Cell:
    """
    Write comparison.md, all_results.json and the figures, and save the model of the recommended strategy.

    Args:
        comparison (`SeriesComparison`): one that has run.

    Returns:
        `Cell`: the run whose model was kept.

    Raises:
        ValueError: if every run failed.
    """
    findings = findings_of(comparison)
    found, kept = kept_cell(comparison, findings)
    name = public_name(comparison.recipe.target_series)[0] or comparison.target.name
    said = [line for own in findings for line in remarks(own, target=name)]
    text = _report(comparison, findings, said, kept)
    logger.info(text)
    trainer = _kept_model(comparison, kept)
    if comparison.args.should_save:
        summary: dict[str, Any] = {own: value for own, value in kept.scores.items()}
        summary |= scores_by_name(comparison.cells)
        summary["shares"] = [as_json(own) for own in findings]
        summary["kept"] = {"run": kept.method, "seed": kept.seed}
        with whole_file(comparison.folder / "comparison.md") as unfinished:
            unfinished.write_text(text, encoding="utf-8")
        with whole_file(comparison.folder / "all_results.json") as unfinished:
            unfinished.write_text(json.dumps(plain(summary), indent=4), encoding="utf-8")
        _draw(comparison, findings, found, trainer.model)
    tell_of_series(trainer.facts, comparison, found, kept, remarks(found, target=name))
    write_run_card(trainer)
    push_result(trainer, tasks=TASK)
    return kept


def findings_of(comparison: SeriesComparison) -> list[ShareFinding]:
    """What the runs on each share come to."""
    found = []
    for share in comparison.shares:
        runs, eval_mse, seconds = {}, {}, {}
        for name in (*comparison.strategies, *comparison.baselines):
            cells = comparison.of(name, share)
            if cells:
                runs[name] = {cell.seed: comparison.scored(cell) for cell in cells}
                eval_mse[name] = {cell.seed: float(cell.scores["eval_mse"] or 0) for cell in cells}
                seconds[name] = float(np.mean([cell.diagnostics["seconds"] or 0 for cell in cells]))
        found.append(
            find(
                share,
                runs,
                eval_mse,
                block_length=block_length(comparison),
                fixed=comparison.fixed,
                seconds=seconds,
                failures={own.strategy: own.reason for own in comparison.failures if own.share == share},
                seed=comparison.args.seed,
            )
        )
    return found


def block_length(comparison: SeriesComparison) -> int:
    """Rows of a block of time."""
    rows = len(next(iter(comparison.shares.values())).parts.test)
    return block_length_of(rows, comparison.recipe.prediction_length, comparison.season)


def kept_cell(comparison: SeriesComparison, findings: Sequence[ShareFinding]) -> tuple[ShareFinding, Cell]:
    """
    The run whose model is kept: of the recommended strategy on the largest share, the seed that evaluates best.

    Raises:
        ValueError: if every run failed.
    """
    for found in reversed(findings):
        if found.recommended is not None:
            cells = comparison.of(found.recommended, found.share)
            return found, min(cells, key=lambda cell: cell.scores["eval_mse"] or 0.0)
    reasons = "; ".join(dict.fromkeys(own.reason for own in comparison.failures))
    raise ValueError(
        f"Every run failed ({reasons}): there is no model to keep. Remove the cause; baselines are in results.json."
    )


def _report(comparison: SeriesComparison, findings: Sequence[ShareFinding], said: Sequence[str], kept: Cell) -> str:
    recipe, target = comparison.recipe, comparison.target
    name = public_name(recipe.target_series)[0] or target.name
    strategy, _, _ = kept.method.partition("@")
    parts = ["# Forecasts of a time series", _data_line(comparison, name)]
    for found in findings:
        parts += [f"## With {share_name(found.share)}", _rows_line(comparison, found), error_table(found)]
        parts.append(horizon_table(found))
    parts.append("## What it comes to")
    parts.append("\n".join(f"- {line}" for line in said))
    length = block_length(comparison)
    parts.append(
        "Errors are of the test part. MSE and MAE are in units of the standard deviation of each channel over the "
        f"whole training part, MASE in units of the error there of the value {comparison.season} rows before. Mean "
        "over seeds and its 95% interval (Student). Differences of the MSE have intervals by a bootstrap over blocks "
        f"of {length} rows of time and over seeds: windows overlap and are no independent rows. Those of a table hold "
        "together; bold: zero is left out. Bold name: recommended. Seconds of one run, without scoring."
    )
    listed = {**{own: about.about for own, about in STRATEGIES.items()}, **BASELINES}
    listed["zero_shot"] = "the pretrained model as it is"
    names = [own for own in listed if any(own in found.runs for found in findings)]
    parts.append("\n".join(f"- {own}: {listed[own]}." for own in names))
    parts.append(f"Kept: {strategy} with seed {kept.seed}, by the error on the evaluation part.")
    return "\n\n".join(parts) + "\n"


def _data_line(comparison: SeriesComparison, name: str) -> str:
    recipe, target = comparison.recipe, comparison.target
    missing = float(np.isnan(target.values).mean())
    sources = ", ".join(f"`{public_name(source.name)[0]}` ({len(source):,} rows)" for source in comparison.sources)
    model = public_name(comparison.model_args.model_name_or_path)[0]
    start = f"pretrained here on {sources}" if sources else f"`{model}`" if model else "none, random weights only"
    told = f"; {comparison.transferred}" if comparison.transferred else ""
    return (
        f"`{name}`: {len(target):,} rows (step: {step_name(target)}), {len(target.channels)} channels, "
        f"{100 * missing:.2g}% missing. From {recipe.context_length} rows the next {recipe.prediction_length} are "
        f"forecast. Source: {start}{told}."
    )


def _rows_line(comparison: SeriesComparison, found: ShareFinding) -> str:
    own = comparison.shares[found.share]
    place, parts = comparison.target.place, own.parts
    return (
        f"{len(own.train):,} training windows that end on {place(parts.train.stop - 1)}, {len(own.eval):,} to "
        f"choose by, {len(own.test):,} of the test from {place(parts.test.start)} to {place(parts.test.stop - 1)}."
    )


def _kept_model(comparison: SeriesComparison, kept: Cell) -> ForecastTrainer:
    """The model of a run, saved into the output folder."""
    from hf_transfer.time_series.models import load_forecaster
    from hf_transfer.time_series.processor import SeriesProcessor

    folder = comparison.folder / kept.folder
    model, _ = load_forecaster(folder, **comparison.shape)
    comparison.args.without_validation()  # the Trainer saves, but trains nothing
    processor = SeriesProcessor.from_pretrained(folder)
    trainer = ForecastTrainer(model, comparison.args, processing_class=processor)
    trainer.facts = replace(load_facts(folder) or RunFacts(), model_name=None, repo_id=None)
    trainer.save_model(_internal_call=True)  # without a push
    return trainer


def _draw(comparison: SeriesComparison, findings: Sequence[ShareFinding], found: ShareFinding, model: Any) -> None:
    """The figures, where matplotlib is there."""
    try:
        curves: dict[str, dict[float, dict[int, float]]] = {}
        for own in findings:
            for name, by_seed in own.runs.items():
                curves.setdefault(name, {})[own.share] = {s: scored.scores["mse"] for s, scored in by_seed.items()}
        plot_few_data(curves, comparison.folder / "few_data.png", baselines=BASELINES)
        shown = [
            name for name in found.runs if name in (found.recommended, found.transferred, found.reference, *BASELINES)
        ]
        errors = {
            name: np.mean([scored.by_horizon["mse"] for scored in found.runs[name].values()], axis=0) for name in shown
        }
        step = step_name(comparison.target)
        plot_horizon(errors, comparison.folder / "horizon.png", step=step, baselines=BASELINES)
        plot_forecasts(_panels(comparison, found, model), comparison.folder / "forecasts.png")
    except ImportError as error:
        logger.warning(f"No figures: {error}")


def _panels(comparison: SeriesComparison, found: ShareFinding, model: Any) -> list[list[Panel]]:
    """Test windows from begin to end of the part, with forecasts of the kept model, its reference and baselines."""
    from hf_transfer.time_series.models import load_forecaster

    recipe, target = comparison.recipe, comparison.target
    own = comparison.shares[found.share]
    device, horizon = comparison.args.device, recipe.prediction_length
    ways = {str(found.recommended): of_model(model.to(device), device)}
    if found.reference is not None and found.recommended != found.reference:
        cell = comparison.of(found.reference, found.share)[0]
        other, _ = load_forecaster(comparison.folder / cell.folder, **comparison.shape)
        ways[found.reference] = of_model(other.to(device), device)
    ways |= {name: of_baseline(comparison.baseline(name, own), horizon) for name in comparison.baselines[:2]}
    places = np.unique(np.linspace(0, len(own.test) - 1, WINDOWS).round().astype(int))
    test = own.test.subsample(len(own.test), seed=0)
    test.starts = own.test.starts[places]
    (batch,) = test.batches(len(places))
    forecasts = {name: own.processor.unscale(predict(batch).double().cpu().numpy()) for name, predict in ways.items()}
    panels = []
    for number, start in enumerate(test.starts):
        first = max(start - min(recipe.context_length, 3 * horizon), 0)
        panels.append(
            [
                Panel(
                    f"{target.channels[channel]}, from {target.place(start, unit='m')}",
                    target.dates[first : start + horizon] if target.dated else np.arange(first, start + horizon),
                    target.values[first:start, channel],
                    target.values[start : start + horizon, channel],
                    {name: forecast[number, :, channel] for name, forecast in forecasts.items()},
                )
                for channel in range(min(CHANNELS, len(target.channels)))
            ]
        )
    return panels
