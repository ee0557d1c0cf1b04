"""What the model card of a few-shot model says beside what its run knows."""

from __future__ import annotations

from collections.abc import Sequence

from hf_transfer.compare.results import Cell
from hf_transfer.few_shot.class_split import all_rows
from hf_transfer.few_shot.comparison import EpisodeComparison
from hf_transfer.few_shot.few_labels import FewLabelComparison
from hf_transfer.few_shot.heads import describe_head
from hf_transfer.few_shot.methods import FEW_LABELS, ON_FEATURES, REFERENCE, TRAINED
from hf_transfer.few_shot.report import Outcome, episode_difference, episode_table, few_label_table, judged_by
from hf_transfer.model_card.facts import Baseline, RunFacts, Score
from hf_transfer.model_card.recipes import add_comparison, data_facts


OWN_CODE = "It pools tokens by code that lies beside its weights, and opens with `trust_remote_code=True`."
"""Of a model whose class is none of `transformers`."""

__all__ = ["OWN_CODE", "tell_of_episodes", "tell_of_few_labels"]


def tell_of_episodes(facts: RunFacts, comparison: EpisodeComparison, kept: Outcome, remarks: Sequence[str]) -> None:
    """
    Put classes, episodes, scores and comparison into the facts of the kept model.

    Args:
        facts (`RunFacts`): of the run that trained it, or empty; changed.
        comparison (`EpisodeComparison`): one that has run.
        kept (`Outcome`): the method whose model was kept.
        remarks (`Sequence[str]`): what the report says beside its table.
    """
    recipe, novel, config = comparison.recipe, comparison.novel, comparison.data_args.dataset_config_name
    method = comparison.can_keep(kept)
    assert method is not None
    rows = len(all_rows(novel))
    head = describe_head(method)
    facts.task, facts.inputs, facts.label_names = novel.task, list(novel.input_columns), list(novel.label_names)
    about = TRAINED.get(kept.features_of or "") or ON_FEATURES[kept.method]
    facts.strategy.append(f"{kept.method}: {about}.")
    facts.strategy.append(
        f"Its head is {head}, of all {rows} labelled rows of the {len(novel.label_names)} classes that it tells apart."
        + ("" if kept.features_of else " The model itself stayed frozen.")
    )
    facts.data = [data_facts(recipe.dataset_name, novel, role="novel classes", config=config, labels_used=True)]
    if comparison.base is not None and kept.features_of is not None:
        name = recipe.base_dataset_name or recipe.dataset_name
        facts.data.append(data_facts(name, comparison.base, role="base classes", config=config, labels_used=True))
        facts.data[-1].splits = {"train": len(comparison.base.train)}
    facts.method = kept.method
    facts.scores, facts.baselines = [], []
    reference = next(own for own in comparison.outcomes if own.method == REFERENCE)
    for k in recipe.k_shot:
        split = f"{recipe.n_way}-way {k}-shot episodes"
        own, plain = kept.summary(k), reference.summary(k)
        facts.scores.append(Score("accuracy", own.mean, split))
        gain = episode_difference(kept, reference, k)
        if gain is not None and k == recipe.k_shot[0]:  # a card has one column of differences; the table has all
            plain = Score("accuracy", plain.mean, split)
            facts.baselines.append(Baseline(REFERENCE, plain, gain.mean, gain.interval))
    facts.comparison = episode_table(comparison.outcomes, recipe.n_way)
    if len(comparison.outcomes) > 1:
        facts.notes += list(remarks)
    facts.limits += [
        f"The scores are those of its features in {recipe.episodes} episodes of {recipe.n_way} classes with few "
        "labels, and their intervals are over episodes; its own head has all classes and all rows, and was scored on "
        "no others.",
        "The method was chosen on the episodes that it is scored on.",
    ]
    if comparison.features.pools_in_model(novel):
        facts.limits.append(OWN_CODE)


def tell_of_few_labels(facts: RunFacts, comparison: FewLabelComparison, kept: Cell, remarks: Sequence[str]) -> None:
    """
    Put data, scores and comparison into the facts of the kept run.

    Args:
        facts (`RunFacts`): of the kept run; changed.
        comparison (`FewLabelComparison`): one whose runs are finished.
        kept (`Cell`): the run whose model was kept.
        remarks (`Sequence[str]`): what the report says beside its table.
    """
    recipe, data, cells = comparison.recipe, comparison.data, comparison.cells
    facts.task, facts.inputs = data.task, list(data.input_columns)
    facts.data = [data_facts(recipe.dataset_name, data, config=comparison.data_args.dataset_config_name)]
    said = f"{kept.method}: {FEW_LABELS[kept.method]}."
    if said not in facts.strategy:
        facts.strategy.append(said)
    add_comparison(facts, cells, kept, judged_by(cells), against=REFERENCE, references={})
    if {cell.method for cell in cells} - {kept.method, REFERENCE}:
        facts.comparison = few_label_table(cells)
    facts.notes += [said for said in remarks if not said.startswith((f"{kept.method} loses", f"{kept.method} is not"))]
    if comparison.features.pools_in_model(data):
        facts.limits.append(OWN_CODE)
