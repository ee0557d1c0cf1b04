"""What a finished run of `recipes/multitask.py` leaves: a model with a card for each task, the report, the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.utils import logging

from hf_transfer.compare.runs import finite
from hf_transfer.files import whole_file
from hf_transfer.model_card.facts import RunFacts
from hf_transfer.model_card.reading import read_run
from hf_transfer.model_card.recipes import changed_options, data_facts
from hf_transfer.model_card.storage import save_facts
from hf_transfer.model_card.writing import write_card
from hf_transfer.multitask.report import TaskReport, compare_tasks
from hf_transfer.multitask.running import Multitasking, TaskRun
from hf_transfer.multitask.task import Task
from hf_transfer.multitask.trainer import MultiTaskTrainer
from hf_transfer.repeats import summarise


logger = logging.get_logger(__name__)

__all__ = ["run_all"]


def run_all(runs: Multitasking) -> dict[str, Any]:
    """
    Train all tasks together and, where the recipe compares, each alone; export the tasks of the seed that validates
    best into the folders `<output_dir>/<task>`, and write `comparison.md` and `all_results.json`.

    Returns:
        `dict`: what `all_results.json` holds.
    """
    args, recipe = runs.args, runs.recipe
    shares = runs.shares() if recipe.compare else {}
    together: dict[int, TaskRun] = {}
    alone: dict[int, dict[str, TaskRun]] = {}
    kept, facts = args.seed, RunFacts()
    for seed in range(args.seed, args.seed + recipe.seeds):
        trainer, together[seed] = runs.together(seed)
        if _chosen(together[seed]) >= _chosen(together[kept]):
            kept, facts = seed, _export(runs, trainer)
        alone[seed] = {name: runs.alone(name, seed, share) for name, share in shares.items()}
    report = _report(runs, together, alone) if recipe.compare else None
    results = _results(together, kept, report)
    if args.should_save:
        _write(runs, facts, together[kept], report, results)
    if report is not None:
        logger.info(f"Every task with the others against alone:\n{report}")
    return results


def _chosen(run: TaskRun) -> float:
    return run.scores.get("eval_mean", float("-inf"))


def _export(runs: Multitasking, trainer: MultiTaskTrainer) -> RunFacts:
    trainer.export_tasks(str(runs.args.output_dir))
    return read_run(trainer)


def _report(
    runs: Multitasking, together: Mapping[int, TaskRun], alone: Mapping[int, Mapping[str, TaskRun]]
) -> TaskReport:
    return compare_tasks(
        runs.data.tasks,
        {seed: run.rows for seed, run in together.items()},
        {seed: {name: run.rows[name] for name, run in own.items()} for seed, own in alone.items()},
    )


def _results(together: Mapping[int, TaskRun], kept: int, report: TaskReport | None) -> dict[str, Any]:
    results: dict[str, Any] = {**finite(together[kept].scores), "seeds": list(together), "kept_seed": kept}
    if len(together) > 1:
        for name in together[kept].scores:
            by_seed = [run.scores[name] for run in together.values()]
            results[f"{name}_by_seed"] = by_seed
            spread = summarise(by_seed)
            results[f"{name}_mean"], results[f"{name}_interval"] = spread.mean, spread.interval
    return results if report is None else {**results, "comparison": report.as_dict()}


def _write(
    runs: Multitasking, facts: RunFacts, run: TaskRun, report: TaskReport | None, results: Mapping[str, Any]
) -> None:
    folder = Path(str(runs.args.output_dir))
    for task in runs.data.tasks:
        own = _facts_of(runs, task, facts, run, report)
        save_facts(own, folder / task.name)
        write_card(own, folder / task.name)
    if report is not None:
        with whole_file(folder / "comparison.md") as unfinished:
            unfinished.write_text(_text(runs, report), encoding="utf-8")
    with whole_file(folder / "all_results.json") as unfinished:
        unfinished.write_text(json.dumps(results, indent=4), encoding="utf-8")


def _facts_of(runs: Multitasking, task: Task, facts: RunFacts, run: TaskRun, report: TaskReport | None) -> RunFacts:
    """What the card of one task says: an ordinary model, though an adapter may have been trained."""
    part = runs.data.parts[task.name]
    others = [name for name in runs.names if name != task.name]
    source = runs.recipe.sources[task.name] if runs.recipe.task_datasets else str(runs.recipe.dataset_name)
    own = replace(
        facts,
        model_name=task.name,
        repo_id=None,
        library="transformers",
        relation="finetune" if facts.base_model else None,
        task=part.task if part.task != "regression" else "text-classification",
        model_class=None,
        label_names=list(part.label_names),
        inputs=list(part.input_columns),
        data=[data_facts(source, part, config=runs.data.data_args.dataset_config_name)],
        scores=[],
        strategy=[
            *facts.strategy,
            f"The backbone was trained for {len(runs.names)} tasks at once, each with a head of its own: this one and "
            f"{', '.join(f'`{name}`' for name in others)}. The model is the backbone with the head of this task.",
        ],
        hyperparameters={**facts.hyperparameters, **changed_options(runs.recipe)},
        comparison=None if report is None else report.table(),
    )
    prefix = f"_{task.name}_"
    own.add_scores({name.replace(prefix, "_", 1): value for name, value in run.scores.items() if prefix in name})
    if report is not None and next(c for c in report.changes if c.task == task.name).verdict == "hurts":
        own.notes = [*own.notes, "The other tasks hurt this one: a model of it alone scores better."]
    return own


def _text(runs: Multitasking, report: TaskReport) -> str:
    seeds = runs.recipe.seeds
    spread = "rows and seeds" if seeds > 1 else "rows alone: one seed says nothing of other runs"
    hurt = [own.task for own in report.changes if own.verdict == "hurts"]
    parts = [
        "# Several tasks with one model",
        report.table(),
        "Each task alone: a model of its own from the same start, trained on the rows that the task has in a batch of "
        "all and in as many steps. The change is relative to the score alone and positive where the other tasks help; "
        f"its interval, by a paired bootstrap, is over {spread}. Accuracy is of rows or tokens, `mse` the squared "
        "error, of which less is better.",
    ]
    if hurt:
        parts.append(f"Negative transfer: {', '.join(hurt)}. Leave out tasks that have little to do with it, or try "
                     "`--surgery pcgrad` or another `--weighting`.")  # fmt: skip
    if any(split == "eval" for split in runs.judged.values()):
        parts.append("Some tasks have no test rows: they are scored on the rows by which epochs were chosen.")
    return "\n\n".join(parts) + "\n"
