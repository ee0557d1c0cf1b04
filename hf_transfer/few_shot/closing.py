"""What a finished few-shot comparison leaves in its folder: the kept model, comparison.md and all_results.json."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch.utils.data import DataLoader
from transformers.utils import logging

from hf_transfer.compare.keeping import keep_model, load_kept
from hf_transfer.compare.results import Cell
from hf_transfer.compare.tables import scores_by_name
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.features import head_features
from hf_transfer.few_shot.card import OWN_CODE, tell_of_episodes, tell_of_few_labels
from hf_transfer.few_shot.comparison import EpisodeComparison
from hf_transfer.few_shot.few_labels import FewLabelComparison
from hf_transfer.few_shot.heads import as_probe
from hf_transfer.few_shot.report import (
    Outcome,
    as_json,
    episode_remarks,
    episode_table,
    few_label_remarks,
    few_label_table,
    judged_by,
)
from hf_transfer.files import whole_file
from hf_transfer.hub import push_result
from hf_transfer.model_card.facts import RunFacts
from hf_transfer.model_card.recipes import write_run_card
from hf_transfer.model_card.storage import load_facts
from hf_transfer.models import load_model
from hf_transfer.trainer import TransferTrainer


logger = logging.get_logger(__name__)

__all__ = ["best_cell", "best_outcome", "close_episodes", "close_few_labels"]


def close_episodes(comparison: EpisodeComparison) -> Outcome | None:
    """
    Write comparison.md and all_results.json, and save the best model whose answers a head can give: with a head for
    all novel classes, fitted to all their rows.

    Args:
        comparison (`EpisodeComparison`): one that has run.

    Returns:
        `Outcome`: what was kept; None where no method ends in a linear head on what the model's head is given.
    """
    recipe, outcomes = comparison.recipe, comparison.outcomes
    kept = best_outcome(comparison)
    said = [
        f"Accuracy on {recipe.queries} queries of each class, mean of {recipe.episodes} episodes and its 95% interval "
        "(Student over episodes of these rows); differences episode by episode, bold: the interval excludes zero. "
        "Seconds of one seed: training where there is any, and test; features of the pretrained model took "
        f"{comparison.extraction_seconds:.1f} for all."
    ]
    classes = f"{len(comparison.novel.label_names)} novel classes, {len(comparison.rows)} rows"
    if comparison.base is not None:
        base = comparison.base
        classes += f"; {len(base.label_names)} base classes, {len(base.train)} rows to train on"
    remarks = episode_remarks(outcomes, recipe.n_way)
    ending = "No model is kept: none of the methods is a linear head on what the head of the model is given."
    if kept is not None:
        ending = (
            f"Kept: {kept.method}, chosen on these episodes, with a head fitted to all {len(comparison.rows)} rows of "
            "the novel classes." + _opens(comparison.features.pools_in_model(comparison.novel))
        )
    table = episode_table(outcomes, recipe.n_way)
    text = _report([table, f"{classes}. {said[0]}"], remarks, ending)
    summary: dict[str, Any] = as_json(outcomes)
    if kept is not None:
        summary |= {f"novel_{k}_shot_accuracy": kept.summary(k).mean for k in recipe.k_shot}
        summary["kept"] = {"method": kept.method}
    _write(comparison.args, text, summary)
    if kept is not None:
        trainer = _kept_model(comparison, kept)
        tell_of_episodes(trainer.facts, comparison, kept, remarks)
        write_run_card(trainer)
        push_result(trainer, tasks=comparison.novel.task)
    return kept


def best_outcome(comparison: EpisodeComparison) -> Outcome | None:
    """Of the methods that a linear head stands for the one of the highest mean over all shots, of equals the first."""
    shots = comparison.recipe.k_shot
    found = [own for own in comparison.outcomes if comparison.can_keep(own) is not None]
    return max(found, key=lambda own: sum(own.summary(k).mean for k in shots), default=None)


def close_few_labels(comparison: FewLabelComparison) -> Cell:
    """
    Write comparison.md and all_results.json, and save the model that validates best.

    Args:
        comparison (`FewLabelComparison`): one whose runs are finished.

    Returns:
        `Cell`: the run whose model was kept.
    """
    args, cells, data = comparison.args, comparison.cells, comparison.data
    chosen_by = "eval_accuracy" if any("eval_accuracy" in cell.scores for cell in cells) else judged_by(cells)
    kept = best_cell(cells, chosen_by)
    count = comparison.data_args.samples_per_class
    told = (
        f"{len(data.label_names)} classes with {count} labelled rows each. Mean over seeds and its 95% interval "
        "(Student); each seed draws other rows, the same for all methods. Seconds of training, without scoring."
    )
    remarks = few_label_remarks(cells)
    by = "" if len(cells) == 1 else f", the best by {chosen_by.replace('eval', 'validation').replace('_', ' ')}"
    ending = f"Kept: {kept.method} with seed {kept.seed}{by}." + _opens(comparison.features.pools_in_model(data))
    text = _report([few_label_table(cells), told], remarks, ending)
    summary: dict[str, Any] = {**kept.scores, **scores_by_name(cells)}
    summary["kept"] = {"method": kept.method, "seed": kept.seed}
    _write(args, text, summary)
    folder = Path(str(args.output_dir)) / kept.folder
    trainer = keep_model(folder, data, args, trust_remote_code=comparison.model_args.trust_remote_code)
    tell_of_few_labels(trainer.facts, comparison, kept, remarks)
    write_run_card(trainer)
    push_result(trainer, tasks=data.task)
    return kept


def best_cell(cells: Sequence[Cell], score: str) -> Cell:
    """
    The run of the best score; of equals the first.

    Raises:
        ValueError: if none has a score that is finite.
    """
    found = [cell for cell in cells if cell.scores.get(score) is not None]
    if not found:
        raise ValueError(
            f"No run has a finite `{score}`: all diverged, and there is no model to keep. Lower `--learning_rate`."
        )
    return max(found, key=lambda cell: cell.scores[score] or 0.0)


def _report(parts: Sequence[str], remarks: Sequence[str], ending: str) -> str:
    listed = ["\n".join(f"- {remark}" for remark in remarks)] if remarks else []
    return "\n\n".join(["# Few-shot methods", *parts, *listed, ending]) + "\n"


def _opens(by_own_code: bool) -> str:
    return f" {OWN_CODE}" if by_own_code else ""


def _write(args: Any, text: str, summary: Mapping[str, Any]) -> None:
    logger.info(text)
    if not args.should_save:
        return
    folder = Path(str(args.output_dir))
    with whole_file(folder / "comparison.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    with whole_file(folder / "all_results.json") as unfinished:
        unfinished.write_text(json.dumps(summary, indent=4), encoding="utf-8")


def _kept_model(comparison: EpisodeComparison, kept: Outcome) -> TransferTrainer:
    """The best model with a head for all novel classes, saved into the output folder."""
    args, novel = comparison.args, comparison.novel
    method = comparison.can_keep(kept)
    assert method is not None
    if kept.features_of is None:
        model, processor = comparison.model, comparison.processor
        features, labels = comparison.novel_features, None
    else:
        model, processor = _trained_model(comparison, Path(str(args.output_dir)) / kept.folders[0])
        model.to(args.device)
        rows: Any = prepare(comparison.rows, processor, max_length=comparison.data_args.max_length)
        batches = DataLoader(rows, args.per_device_eval_batch_size, collate_fn=collator_for(processor))
        found = head_features(model, batches)
        features, labels = found[0].numpy(), found[1].numpy()
    probe = as_probe(method, features, labels, label_names=novel.label_names, seed=args.seed)
    probe.fold_into(model)
    args.without_validation()  # the Trainer saves, but trains nothing
    trainer = TransferTrainer(model, args, processing_class=processor)
    if kept.features_of is not None:
        own = load_facts(Path(str(args.output_dir)) / kept.folders[0]) or RunFacts()
        trainer.facts = replace(own, model_name=None, repo_id=None)
    trainer.save_model(_internal_call=True)  # without a push
    return trainer


def _trained_model(comparison: EpisodeComparison, folder: Path) -> tuple[Any, Any]:
    """The model of a run with a new head for the novel classes; an adapter is merged into its base."""
    novel, trust = comparison.novel, comparison.model_args.trust_remote_code
    if not (folder / "adapter_config.json").is_file():
        return load_model(folder, novel, trust_remote_code=trust)
    from hf_transfer.adapters.merging import merge_adapter

    model, processor = load_kept(folder, novel, comparison.args.device, trust_remote_code=trust)
    merged = merge_adapter(cast(Any, model))
    with tempfile.TemporaryDirectory() as whole:  # so that the head is made anew as that of any checkpoint
        merged.save_pretrained(whole)
        processor.save_pretrained(whole)
        return load_model(whole, novel, trust_remote_code=trust)
