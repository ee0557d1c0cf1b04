"""What a finished classification of series leaves in its folder: tables, all_results.json, the kept model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from transformers.utils import logging

from hf_transfer.compare.results import Cell
from hf_transfer.compare.storage import plain
from hf_transfer.data.columns import listed
from hf_transfer.files import whole_file
from hf_transfer.hub import push_result
from hf_transfer.model_card.facts import Baseline, DataFacts, RunFacts, Score
from hf_transfer.model_card.naming import public_name
from hf_transfer.model_card.recipes import write_run_card
from hf_transfer.model_card.storage import load_facts
from hf_transfer.repeats import summarise
from hf_transfer.time_series.classifier_strategies import CLASSIFIER_STRATEGIES as STRATEGIES
from hf_transfer.time_series.probing import BASELINES
from hf_transfer.time_series.processor import SeriesProcessor
from hf_transfer.time_series.strategies import UNTRANSFERRED
from hf_transfer.trainer import TransferTrainer


if TYPE_CHECKING:
    from hf_transfer.time_series.classification import ClassificationComparison

TASK = "time-series-classification"

logger = logging.get_logger(__name__)

__all__ = ["TASK", "best_run", "close_classification"]


def best_run(comparison: ClassificationComparison) -> Cell:
    """Of the strategy with the highest mean on the evaluation rows, on the largest share, the best seed."""
    share = max(comparison.recipe.few)
    means = {
        name: summarise(own).mean
        for name in comparison.strategies
        if (own := comparison.scores(name, share, "eval_accuracy"))
    }
    if not means:
        raise ValueError(
            f"Every run failed: {'; '.join(comparison.failures)}. There is no model to keep; change what they name."
        )
    name = max(means, key=lambda own: means[own])
    cells = [cell for cell in comparison.cells if cell.method == f"{name}@{share:g}"]
    return max(cells, key=lambda cell: cell.scores["eval_accuracy"] or 0.0)


def close_classification(comparison: ClassificationComparison) -> Cell:
    """Write the report and save the best model."""
    kept = best_run(comparison)
    text = _report(comparison, kept)
    logger.info(text)
    if comparison.args.should_save:
        summary: dict[str, Any] = {**kept.scores, "kept": {"run": kept.method, "seed": kept.seed}}
        for cell in comparison.cells:
            summary.setdefault("runs", {}).setdefault(cell.method, {})[cell.seed] = dict(cell.scores)
        for name, content in (("comparison.md", text), ("all_results.json", json.dumps(plain(summary), indent=4))):
            with whole_file(comparison.folder / name) as unfinished:
                unfinished.write_text(content, encoding="utf-8")
    trainer = _kept_model(comparison, kept)
    _tell(comparison, trainer.facts, kept)
    write_run_card(trainer)
    push_result(trainer, tasks=TASK)
    return kept


def _report(comparison: ClassificationComparison, kept: Cell) -> str:
    """comparison.md."""
    data = comparison.data
    parts = [
        "# Classification of series",
        f"{len(data.label_names)} classes ({listed(data.label_names)}), series of {data.length} rows and "
        f"{data.channels} channels. Accuracy on the {len(comparison.judged[comparison.judged_on])} rows of the "
        f"{'test' if comparison.judged_on == 'test' else 'evaluation'} split; 95% intervals are Student's over seeds "
        "and speak of other seeds, not of other data. Differences seed by seed to what transfer must "
        "beat: scratch or probe_scratch, the better on the evaluation rows. Scaling and all else that is fitted comes "
        "from the rows of the share.",
    ]
    for share in comparison.recipe.few:
        count = len(comparison.part(share, comparison.args.seed).train)
        parts += [f"## {count} training rows ({share:.0%})", comparison.table(share)]
    parts.append(
        "\n".join(
            f"- {name}: {about}."
            for name, about in {**BASELINES, **{name: STRATEGIES[name] for name in comparison.strategies}}.items()
        )
    )
    if comparison.failures:
        parts.append("\n".join(f"- Failed: {line}" for line in comparison.failures))
    parts.append(f"Kept: {kept.method} with seed {kept.seed}, chosen on the evaluation rows.")
    return "\n\n".join(parts) + "\n"


def _kept_model(comparison: ClassificationComparison, kept: Cell) -> TransferTrainer:
    """The model of a run, saved into the output folder."""
    from transformers import PatchTSMixerForTimeSeriesClassification, PatchTSTForClassification

    folder = comparison.folder / kept.folder
    kind: Any = PatchTSTForClassification
    if json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == "patchtsmixer":
        kind = PatchTSMixerForTimeSeriesClassification
    comparison.args.without_validation()  # the Trainer saves, but trains nothing
    processor = cast(Any, SeriesProcessor.from_pretrained(folder))
    trainer = TransferTrainer(kind.from_pretrained(folder), comparison.args, processing_class=processor)
    trainer.facts = replace(load_facts(folder) or RunFacts(), model_name=None, repo_id=None)
    trainer.save_model(_internal_call=True)  # without a push
    return trainer


def _tell(comparison: ClassificationComparison, facts: RunFacts, kept: Cell) -> None:
    name, _, share = kept.method.partition("@")
    facts.task, facts.inputs, facts.label_names = TASK, ["series"], list(comparison.data.label_names)
    facts.strategy.insert(0, f"{name}: {STRATEGIES[name]}.")
    told, hub_id, _ = public_name(comparison.recipe.target_series)
    sizes = {"train": len(comparison.data.train), **{part: len(split) for part, split in comparison.judged.items()}}
    facts.data = [DataFacts(told or "", "target", sizes, hub_id)]
    facts.method, facts.seeds = name, sorted(comparison.scores(name, float(share), "eval_accuracy"))
    own = comparison.scores(name, float(share), f"{comparison.judged_on}_accuracy")
    summary = summarise(own)
    value = float(kept.scores[f"{comparison.judged_on}_accuracy"] or 0.0)
    facts.scores = [Score("accuracy", value, comparison.judged_on, summary.mean, summary.interval, list(own.values()))]
    facts.baselines = [
        Baseline(other, Score("accuracy", summarise(theirs).mean, comparison.judged_on), None, None)
        for other in (*UNTRANSFERRED, *BASELINES)
        if other != name and (theirs := comparison.scores(other, float(share), f"{comparison.judged_on}_accuracy"))
    ]
    facts.comparison = comparison.table(float(share))
