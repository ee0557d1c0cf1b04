"""What a finished comparison leaves in its folder: the kept student, comparison.md, all_results.json and a figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers.utils import logging

from hf_transfer.compare.keeping import keep_model
from hf_transfer.compare.results import Cell
from hf_transfer.compare.tables import scores_by_name
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.distillation.card import tell_of_student
from hf_transfer.distillation.comparison import Comparison
from hf_transfer.distillation.measuring import Cost, measure
from hf_transfer.distillation.methods import ALONE, TEACHER
from hf_transfer.distillation.plots import plot_distillation
from hf_transfer.distillation.report import report
from hf_transfer.files import whole_file
from hf_transfer.hub import push_result
from hf_transfer.metrics import MAIN_METRIC
from hf_transfer.model_card.recipes import write_run_card
from hf_transfer.models import resolve_name


logger = logging.get_logger(__name__)

MANY = 32
"""Rows of a batch by which throughput is measured."""

__all__ = ["best_run", "close"]


def close(comparison: Comparison) -> Cell:
    """
    Keep the run that validates best, save its student into the output folder, measure it beside the teacher, and write
    the report.

    Args:
        comparison (`Comparison`): one whose runs are finished.

    Returns:
        `Cell`: the run whose student was kept.
    """
    args, cells, teacher = comparison.args, comparison.cells, comparison.taught
    assert teacher is not None  # `run` saw to it
    metric = MAIN_METRIC[comparison.data.task]
    kept = best_run(cells, f"eval_{metric}")
    folder = Path(str(args.output_dir))
    trust = comparison.recipe.trust_remote_code
    trainer = keep_model(folder / kept.folder, comparison.data, args, trust_remote_code=trust)
    if not args.should_save:
        push_result(trainer, tasks=comparison.data.task)
        return kept
    costs = _costs(comparison, cast(nn.Module, trainer.model), folder) if comparison.recipe.measure else {}
    chosen = "" if len(cells) == 1 else f", the best on the validation rows ({metric})"
    text = report(teacher, cells, costs, metric, f"Kept: {kept.method} with seed {kept.seed}{chosen}.")
    with whole_file(folder / "comparison.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    summary: dict[str, Any] = {**kept.scores, **scores_by_name([teacher, *cells])}
    summary["kept"] = {"method": kept.method, "seed": kept.seed}
    summary["costs"] = {name: asdict(cost) for name, cost in costs.items()}
    with whole_file(folder / "all_results.json") as unfinished:
        unfinished.write_text(json.dumps(summary, indent=4), encoding="utf-8")
    try:
        plot_distillation(teacher, cells, costs, metric, folder / "distillation.png")
    except ImportError as error:
        logger.warning(f"No figure: {error}")
    logger.info(text)
    tell_of_student(trainer.facts, comparison, kept, metric)
    write_run_card(trainer)
    push_result(trainer, tasks=comparison.data.task)
    return kept


def best_run(cells: Sequence[Cell], score: str) -> Cell:
    """
    The run of the best score; of equals a student with a teacher, and then the first.

    Args:
        cells (`Sequence[Cell]`): finished runs.
        score (`str`): the score, more of which is better.

    Raises:
        ValueError: if none has a score that is finite.
    """
    found = [cell for cell in cells if cell.scores.get(score) is not None]
    if not found:
        raise ValueError(
            f"No run has a finite `{score}`: all diverged, and there is no student to keep. Lower `--learning_rate` "
            "or `--distillation_weight`."
        )
    return max(found, key=lambda cell: (cell.scores[score], cell.method != ALONE))


def _costs(comparison: Comparison, student: nn.Module, folder: Path) -> dict[str, Cost]:
    """Of teacher and student, on the device of the run, by the first rows of the data."""
    data = comparison.data
    split = data.test or data.eval or data.train
    name = comparison.recipe.teacher_name_or_path
    teacher = comparison.teaching.folder if comparison.teaching.reason else resolve_name(name)
    models = {
        TEACHER: (comparison.teacher_model, comparison.teacher_processor, teacher),
        "student": (student, comparison.processor, folder),
    }
    costs = {}
    for name, (model, processor, where) in models.items():
        rows: Any = prepare(
            split.select(range(min(MANY, len(split)))), processor, max_length=comparison.data_args.max_length
        )
        collate = collator_for(processor, tokens=data.task == "token-classification")
        found = [rows[number] for number in range(len(rows))]
        device: Any = comparison.args.device
        costs[name] = measure(model.to(device), collate(found[:1]), collate(found), folder=where)
    return costs
