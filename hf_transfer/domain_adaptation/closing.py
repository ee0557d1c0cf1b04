"""What a finished comparison leaves in its folder: the kept model, tables, figures and all_results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils import logging

from hf_transfer.compare.keeping import keep_model
from hf_transfer.compare.results import Cell
from hf_transfer.compare.tables import scores_by_name
from hf_transfer.domain_adaptation.card import tell_of_adaptation
from hf_transfer.domain_adaptation.comparison import START, Comparison
from hf_transfer.domain_adaptation.methods import SOURCE_ONLY
from hf_transfer.domain_adaptation.outputs import Outputs, load_outputs
from hf_transfer.domain_adaptation.plots import best_methods, plot_features, plot_scores
from hf_transfer.domain_adaptation.report import report
from hf_transfer.domain_adaptation.selection import choices, kept_run
from hf_transfer.domain_adaptation.training import OUTPUTS
from hf_transfer.files import whole_file
from hf_transfer.hub import push_result
from hf_transfer.metrics import MAIN_METRIC
from hf_transfer.model_card.recipes import write_run_card


logger = logging.get_logger(__name__)

__all__ = ["close"]


def close(comparison: Comparison) -> Cell:
    """
    Choose a run, save its model into the output folder, and write comparison.md, all_results.json and the figures.

    Args:
        comparison (`Comparison`): one whose runs are finished.

    Returns:
        `Cell`: the run whose model was kept.

    Raises:
        ValueError: if the validator that is to choose has no score.
    """
    recipe, args, cells = comparison.recipe, comparison.args, comparison.cells
    metric = MAIN_METRIC[comparison.task]
    judged = f"target_{metric}"
    names = [method.name for method in recipe.candidates] or [method.name for method in recipe.runs]
    kept = kept_run(cells, names, recipe.choose_by, judged)
    one = len([cell for cell in cells if cell.method in names]) == 1
    by = " (the only one)" if one else f", chosen by {recipe.choose_by}"
    shown = [method.name for method in recipe.runs if method.name in names or method.name == SOURCE_ONLY]
    made = choices(cells, shown, judged)
    text = report(cells, made, metric, kept, by)
    folder = Path(str(args.output_dir))
    if args.should_save:
        with whole_file(folder / "comparison.md") as unfinished:
            unfinished.write_text(text, encoding="utf-8")
        summary: dict[str, Any] = {
            **kept.scores,
            **scores_by_name(cells),
            "kept": {"method": kept.method, "seed": kept.seed},
        }
        summary["choices"] = [vars(choice) for choice in made]
        with whole_file(folder / "all_results.json") as unfinished:
            unfinished.write_text(json.dumps(summary, indent=4), encoding="utf-8")
        if recipe.diagnostics:
            _draw(cells, metric, folder)
    logger.info(text)
    trust = comparison.model_args.trust_remote_code
    trainer = keep_model(folder / kept.folder, comparison.domains.data, args, trust_remote_code=trust)
    tell_of_adaptation(trainer.facts, comparison, kept, metric)
    write_run_card(trainer)
    push_result(trainer, tasks=comparison.task)
    return kept


def _draw(cells: list[Cell], metric: str, folder: Path) -> None:
    """The figures, where matplotlib is there."""
    try:
        plot_scores(cells, metric, folder / "methods.png")
        seed = min(cell.seed for cell in cells)
        panels: dict[str, Mapping[str, Outputs]] = {}
        shown = [SOURCE_ONLY, *best_methods(cells, metric)]
        own = {cell.method: cell for cell in cells if cell.seed == seed}
        start = folder / START / f"seed_{seed}.safetensors"
        if SOURCE_ONLY not in own and start.is_file():
            panels["before training"] = load_outputs(start, ("source", "target"))
        for method in shown:
            if method in own:
                title = f"{method} (before)" if method == SOURCE_ONLY else f"{method} (after)"
                panels[title] = load_outputs(folder / own[method].folder / OUTPUTS, ("source", "target"))
        if all(len(own["source"].features) > 1 and len(own["target"].features) > 1 for own in panels.values()):
            plot_features(panels, folder / "features.png", seed=seed)
    except ImportError as error:
        logger.warning(f"No figures: {error}")
