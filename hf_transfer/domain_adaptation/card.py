"""What the model card of an adapted model says beside what its run knows."""

from __future__ import annotations

from hf_transfer.compare.results import Cell
from hf_transfer.compare.tables import scores_of
from hf_transfer.domain_adaptation.comparison import Comparison
from hf_transfer.domain_adaptation.methods import SOURCE_ONLY, TARGET_ORACLE
from hf_transfer.domain_adaptation.report import method_table, remarks
from hf_transfer.domain_adaptation.selection import ORACLE
from hf_transfer.model_card.facts import DataFacts, RunFacts
from hf_transfer.model_card.naming import public_name
from hf_transfer.model_card.recipes import add_comparison


__all__ = ["tell_of_adaptation"]


def tell_of_adaptation(facts: RunFacts, comparison: Comparison, kept: Cell, metric: str) -> None:
    """
    Put domains, scores, comparison and what chose the model into the facts of the kept run.

    Args:
        facts (`RunFacts`): of the kept run; changed.
        comparison (`Comparison`): one whose runs are finished.
        kept (`Cell`): the run whose model was kept.
        metric (`str`): what is scored, such as `accuracy`.
    """
    recipe, cells = comparison.recipe, comparison.cells
    facts.task, facts.inputs = comparison.task, list(comparison.domains.data.input_columns)
    facts.data = _data(comparison, oracle=kept.method == TARGET_ORACLE)
    judged = f"target_{metric}"
    oracle = scores_of(cells, TARGET_ORACLE, judged)
    add_comparison(facts, cells, kept, judged, against=SOURCE_ONLY, references={TARGET_ORACLE: oracle})
    if {cell.method for cell in cells} - {kept.method, SOURCE_ONLY, TARGET_ORACLE}:
        facts.comparison = method_table(cells, metric)
    if len(cells) > 1:
        why = "which needs no label of the target"
        by = "the test labels of the target" if recipe.choose_by == ORACLE else f"`{recipe.choose_by}`, {why}"
        facts.strategy.append(f"Of {len(cells)} runs {kept.method} with seed {kept.seed} was chosen by {by}.")
    if recipe.choose_by == ORACLE and len(cells) > 1:
        facts.limits.append("The run was chosen by the rows that it is scored on: its target score is too high.")
    of_kept = (f"{kept.method} loses to", f"{kept.method} is not told", "One seed")
    facts.notes += [said for said in remarks(cells, metric) if not said.startswith(of_kept)]


def _data(comparison: Comparison, *, oracle: bool) -> list[DataFacts]:
    domains, config = comparison.domains, comparison.data_args.dataset_config_name
    found = []
    for role, names, rows, labelled in (
        ("source", comparison.recipe.source_dataset, domains.raw_sources, not oracle),
        ("target", comparison.recipe.target_dataset, domains.raw_targets, oracle),
    ):
        for number, (name, train) in enumerate(zip(names, rows, strict=True)):
            told, hub_id, _ = public_name(name)
            test = domains.tests.get(role if len(names) == 1 else f"{role}_{number}")
            splits = {"train": len(train), **({} if test is None else {"test": len(test)})}
            found.append(DataFacts(told or "", role, splits, hub_id, config, labelled))
    return found
