"""What the model card of a distilled student says beside what its run knows."""

from __future__ import annotations

from hf_transfer.compare.results import Cell
from hf_transfer.compare.tables import scores_of
from hf_transfer.distillation.comparison import Comparison
from hf_transfer.distillation.methods import ALONE, TEACHER
from hf_transfer.distillation.report import judged_by, remarks, score_table
from hf_transfer.model_card.facts import RunFacts
from hf_transfer.model_card.naming import public_name
from hf_transfer.model_card.recipes import add_comparison, data_facts


__all__ = ["tell_of_student"]


def tell_of_student(facts: RunFacts, comparison: Comparison, kept: Cell, metric: str) -> None:
    """
    Put teacher, data, scores and comparison into the facts of the kept run.

    Args:
        facts (`RunFacts`): of the kept run; changed.
        comparison (`Comparison`): one whose runs are finished.
        kept (`Cell`): the run whose student was kept.
        metric (`str`): what is scored, such as `accuracy`.
    """
    recipe, data, teacher, cells = comparison.recipe, comparison.data, comparison.taught, comparison.cells
    assert teacher is not None  # `run` saw to it
    name = public_name(recipe.teacher_name_or_path)[0]
    size = sum(parameter.numel() for parameter in comparison.teacher_model.parameters())
    tuned = ", fine-tuned on the same labelled rows first" if comparison.teaching.reason else ""
    if kept.method != ALONE:
        facts.strategy.append(f"Its teacher is `{name}` ({size:,} parameters){tuned}.")
    facts.task, facts.inputs = data.task, list(data.input_columns)
    config = comparison.data_args.dataset_config_name
    facts.data = [data_facts(recipe.dataset_name, data, config=config)]
    for own, rows in zip(recipe.unlabelled_dataset, comparison.unlabelled, strict=True):
        facts.data.append(data_facts(own, rows, role="unlabelled rows", config=config, labels_used=False))
        facts.data[-1].splits = {"train": len(rows.train)}
    if recipe.unlabelled_dataset:
        facts.data[0].labels_used, facts.data[0].role = True, "labelled rows"
    judged = judged_by(cells, metric)
    score = teacher.scores.get(judged)
    references = {} if score is None else {TEACHER: {teacher.seed: score}}
    add_comparison(facts, cells, kept, judged, against=ALONE, references=references)
    if {cell.method for cell in cells} - {kept.method, ALONE} and scores_of(cells, kept.method, judged):
        facts.comparison = score_table(teacher, cells, metric)
    of_kept = (f"{kept.method} does not help", f"{kept.method} is not told", "There are no test rows", "One seed")
    facts.notes += [said for said in remarks(teacher, cells, metric) if not said.startswith(of_kept)]
