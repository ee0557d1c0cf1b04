"""What the recipes put into the facts of their runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hf_transfer.compare.results import Cell
from hf_transfer.compare.tables import difference, scores_of
from hf_transfer.data.loading import TransferData
from hf_transfer.model_card.facts import Baseline, DataFacts, RunFacts, Score
from hf_transfer.model_card.naming import public_name, shown
from hf_transfer.model_card.reading import read_run
from hf_transfer.model_card.storage import load_facts, save_facts
from hf_transfer.model_card.writing import write_card
from hf_transfer.repeats import summarise


__all__ = ["add_comparison", "changed_options", "data_facts", "keep_facts", "over_seeds", "write_run_card"]


def data_facts(
    name: str,
    data: TransferData,
    *,
    role: str = "",
    config: str | None = None,
    labels_used: bool | None = None,
) -> DataFacts:
    """
    A data set of a recipe as a card lists it.

    Args:
        name (`str`): as it was given to the recipe.
        data (`TransferData`): its splits.
        role (`str`, *optional*): what it was for.
        config (`str`, *optional*): its configuration.
        labels_used (`bool`, *optional*): whether its labels were trained on.
    """
    splits = {"train": data.train, "validation": data.eval, "test": data.test}
    sizes = {split: len(rows) for split, rows in splits.items() if rows is not None}
    told, hub_id, _ = public_name(name)
    return DataFacts(told or "", role, sizes, hub_id, config, labels_used)


def changed_options(options: Any) -> dict[str, str]:
    """The options of a dataclass of arguments that are not at their defaults."""
    found = {own.name: (getattr(options, own.name), own.default) for own in fields(options) if own.init}
    return {
        name: shown(value) for name, (value, default) in found.items() if value != default and value not in ([], {})
    }


def write_run_card(trainer: Any) -> None:
    """Write the card of a finished run and, for a summary over seeds, its facts; on the first rank alone."""
    keep_facts(trainer)
    trainer.create_model_card()


def keep_facts(trainer: Any) -> None:
    """Leave the facts of a run in its folder, while its trainer still knows them; on the first rank alone."""
    if trainer.is_world_process_zero():
        save_facts(read_run(trainer), str(trainer.args.output_dir))


def over_seeds(folder: str | os.PathLike[str], scores: Mapping[str, Mapping[int, float]]) -> None:
    """
    Put mean and interval over all seeds into the cards of the runs of each, in the folders `seed_<n>`.

    Args:
        folder (`str` or path): above them.
        scores (`Mapping[str, Mapping[int, float]]`): by name of the score, those of each seed.
    """
    seeds = sorted({seed for own in scores.values() for seed in own})
    for seed in seeds:
        own = Path(folder) / f"seed_{seed}"
        facts = load_facts(own)
        if facts is None:
            continue
        facts.seeds = seeds
        facts.scores = [_spread(score, scores.get(f"{score.split}_{score.metric}", {})) for score in facts.scores]
        save_facts(facts, own)
        write_card(facts, own)


def add_comparison(
    facts: RunFacts,
    cells: Sequence[Cell],
    kept: Cell,
    judged: str,
    *,
    against: str,
    references: Mapping[str, Mapping[int, float]],
) -> None:
    """
    Put the scores of the kept run and of those it is compared with into its facts.

    Args:
        facts (`RunFacts`): of the kept run; changed.
        cells (`Sequence[Cell]`): all finished runs.
        kept (`Cell`): the run whose model was kept.
        judged (`str`): the score that methods are compared by, such as `target_accuracy`.
        against (`str`): the method that adapts nothing.
        references (`Mapping[str, Mapping[int, float]]`): scores by seed of what is a bound and no competitor.
    """
    facts.method, facts.seeds = kept.method, sorted({cell.seed for cell in cells})
    facts.add_scores(kept.scores)
    facts.scores = [_spread(own, scores_of(cells, kept.method, f"{own.split}_{own.metric}")) for own in facts.scores]
    split, _, metric = judged.rpartition("_")
    facts.baselines = []
    plain = scores_of(cells, against, judged)
    if kept.method != against and plain:
        gain = difference(cells, kept.method, judged, against=against)
        mean, interval = (None, None) if gain is None else (gain.mean, gain.interval)
        facts.baselines.append(Baseline(against, _mean(metric, split, plain), mean, interval))
    for name, scores in references.items():
        if scores and name != kept.method:
            facts.baselines.append(Baseline(name, _mean(metric, split, scores), reference=True))
    if kept.method == against:
        facts.notes = [f"The model that was kept is the baseline `{against}` itself.", *facts.notes]


def _spread(score: Score, by_seed: Mapping[int, float]) -> Score:
    if len(by_seed) < 2:
        return score
    summary = summarise(by_seed)
    return replace(score, mean=summary.mean, interval=summary.interval, by_seed=list(by_seed.values()))


def _mean(metric: str, split: str, by_seed: Mapping[int, float]) -> Score:
    return _spread(Score(metric, summarise(by_seed).mean, split), by_seed)
