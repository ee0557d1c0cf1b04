"""What the model card of a selected model says beside what its run knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_transfer.model_card.environment import device_name
from hf_transfer.model_card.facts import Baseline, RunFacts, Score
from hf_transfer.model_card.recipes import changed_options, data_facts
from hf_transfer.selection.held_out import PROBE
from hf_transfer.selection.report import ranking_remarks, ranking_table, shown_name, shown_sentences


if TYPE_CHECKING:
    from hf_transfer.features import Probe
    from hf_transfer.selection.distance import DomainDistance
    from hf_transfer.selection.ranking import SourceRanking
    from hf_transfer.selection.running import SourceSelection

HELD_OUT = "held-out rows"
"""What the score that candidates were chosen by is of."""

__all__ = ["HELD_OUT", "tell_of_selection"]


def tell_of_selection(
    facts: RunFacts,
    ranking: SourceRanking,
    selection: SourceSelection,
    best: str,
    probe: Probe,
    scores: dict[str, float],
    distances: dict[tuple[str, str], DomainDistance],
    seconds: float,
) -> None:
    """
    Put candidates, scores and the recommendation into the facts of the kept model.

    Args:
        facts (`RunFacts`): of the kept model; changed.
        ranking (`SourceRanking`): that it comes first in.
        selection (`SourceSelection`): data and options.
        best (`str`): its name.
        probe (`Probe`): that became its head.
        scores (`dict[str, float]`): of its head, by split and metric.
        distances (`dict`): of source data, by data set and candidate.
        seconds (`float`): of all of it.
    """
    recipe, data, args = selection.recipe, selection.data, selection.args
    name = shown_name(best)
    facts.task, facts.inputs, facts.label_names = data.task, list(data.input_columns), list(data.label_names)
    facts.data = [data_facts(recipe.dataset_name, data, config=selection.data_args.dataset_config_name)]
    kind = "ridge regression" if data.task == "regression" else "logistic regression"
    facts.strategy = [
        f"It was chosen as the source among {len(ranking.candidates)} candidates by {ranking.by} on "
        f"{ranking.settings['rows']:,} labelled rows.",
        f"The model stayed frozen: its head is a {kind} on the features that it is given, of all {probe.rows:,} "
        "labelled rows or tokens, with the standardisation of the features.",
    ]
    facts.hyperparameters = {
        own: value
        for own, value in changed_options(recipe).items()
        if own not in ("model_name_or_path", "dataset_name")
    }
    facts.method, facts.seeds, facts.scores = name, [args.seed], []
    facts.add_scores(scores)
    metric = "accuracy" if ranking.metric == "accuracy" else "r2"
    held_out = ranking.intervals[PROBE][best]
    assert held_out.value is not None
    facts.scores.append(Score(metric, held_out.value, HELD_OUT))
    facts.baselines = []
    gains = ranking.transfer[1]
    for own, gain in gains.items():
        value = ranking.outcome(own).value(PROBE)
        if value is not None:
            ends: Any = None if gain.low is None else (gain.low, gain.high)
            facts.baselines.append(Baseline(shown_name(own), Score(metric, value, HELD_OUT), gain.mean, ends))
    facts.comparison = ranking_table(ranking)
    facts.notes = [*shown_sentences(ranking), *ranking_remarks(ranking)]
    for (source, of), distance in distances.items():
        low, high = distance.a_distance.interval
        facts.notes.append(
            f"A-distance from `{shown_name(source)}` to the target in features of `{shown_name(of)}`: "
            f"{distance.a_distance.distance:.2f} ({low:.2f} to {high:.2f}) of at most 2."
        )
    facts.limits.append(
        "It was chosen on the rows that the held-out scores are of, by frozen features: fine-tuning may order the "
        "candidates otherwise."
    )
    facts.seconds, facts.device = seconds, device_name(args)
