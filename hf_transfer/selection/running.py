"""One run of `recipes/select_source.py`: rank, measure distances, keep the recommended model with a probe as head."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import set_seed
from transformers.utils import logging

from hf_transfer.anatomy import anatomy
from hf_transfer.data.loading import TransferData
from hf_transfer.data.subsets import random_rows
from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.features import Probe, extract_features, fit_probe
from hf_transfer.features.probes.labelled_rows import read_rows
from hf_transfer.files import whole_file
from hf_transfer.hub import push_result
from hf_transfer.model_card.recipes import write_run_card
from hf_transfer.recipe_arguments import DataArguments, LoopArguments
from hf_transfer.selection.api import rank_models
from hf_transfer.selection.arguments import SelectSourceArguments
from hf_transfer.selection.candidates import load_for_target, named_candidates
from hf_transfer.selection.card import tell_of_selection
from hf_transfer.selection.distance import DomainDistance, domain_distance
from hf_transfer.selection.ranking import SourceRanking
from hf_transfer.selection.report import shown_name
from hf_transfer.selection.source_distances import distance_table
from hf_transfer.trainer import TransferTrainer


logger = logging.get_logger(__name__)

MODEL = "model"
"""Folder of the kept model, below the output folder."""

__all__ = ["MODEL", "SourceSelection"]


class SourceSelection:
    """
    The selection of a source, as the arguments of the recipe describe it.

    Args:
        recipe (`SelectSourceArguments`): candidates, target and scores.
        features (`FeatureArguments`): how features are read.
        data_args (`DataArguments`): which rows.
        args (`LoopArguments`): folder, seed, device and Hub.

    Raises:
        ValueError: if options contradict each other or the data, before a model runs.
    """

    def __init__(
        self,
        recipe: SelectSourceArguments,
        features: FeatureArguments,
        data_args: DataArguments,
        args: LoopArguments,
    ):
        recipe.check(features, data_args, args)
        self.recipe, self.features, self.data_args, self.args = recipe, features, data_args, args
        self.candidates = named_candidates(recipe.candidates)
        set_seed(args.seed)
        with args.main_process_first(desc="loading data"):
            self.data: TransferData = data_args.load(recipe.dataset_name, args.seed)
            self.sources = {
                name: data_args.load(name, args.seed, require_labels=False) for name in recipe.source_dataset
            }
        for name, source in self.sources.items():
            if source.input_columns != self.data.input_columns:
                raise ValueError(
                    f"`--source_dataset {name}` has {', '.join(source.input_columns)}, the target "
                    f"{', '.join(self.data.input_columns)}: no model reads both, and there is no distance. Name data "
                    "of one kind."
                )

    def run(self) -> SourceRanking:
        """
        Rank, measure, fit, save, push.

        Raises:
            ValueError: if no candidate could be scored.
        """
        recipe, started = self.recipe, time.perf_counter()
        folder = Path(str(self.args.output_dir))
        ranking = rank_models(
            recipe.candidates,
            self.data,
            scores=recipe.scores or None,
            by=recipe.by,
            layers=recipe.layers,
            probe=recipe.probe,
            max_rows=recipe.max_rows,
            folds=recipe.folds,
            bootstrap=recipe.bootstrap,
            epochs=recipe.epochs,
            seed=self.args.seed,
            device=self.args.device,
            output_dir=folder,
            trust_remote_code=recipe.trust_remote_code,
            pooling=self.features.pooling,
            **self._extraction(),
        )
        logger.info(str(ranking))
        if self.args.should_save:
            ranking.save(folder)
        best = ranking.best()
        distances = self.distances(best)
        if self.args.should_save:
            self._write_distances(distances)
        model, processor, probe, scores = self._kept(best)
        if self.args.should_save:
            self._write_results(ranking, best, probe, scores, distances)
        self._save(ranking, best, model, processor, probe, scores, distances, started)
        return ranking

    def distances(self, best: str) -> dict[tuple[str, str], DomainDistance]:
        """By data set and candidate, how far each `--source_dataset` is from the target in its features."""
        found = {}
        of = self.recipe.source_dataset_of or [best]
        for place, (name, source) in enumerate(self.sources.items()):
            candidate = of[place] if len(of) > 1 else of[0]
            model, processor = self._loaded(candidate)
            read = {
                domain: self._read(model, processor, self._some(rows))
                for domain, rows in (("source", source.train), ("target", self.data.train))
            }
            labels = {domain: _classes(features) for domain, features in read.items()}
            found[name, candidate] = domain_distance(
                _table(read["source"]),
                _table(read["target"]),
                source_labels=labels["source"],
                target_labels=labels["target"],
                seed=self.args.seed,
            )
            logger.info(
                f"From {name} to {self.recipe.dataset_name}, in features of {candidate}:\n{found[name, candidate]}"
            )
        return found

    def _extraction(self) -> dict[str, Any]:
        features = self.features
        return {
            "batch_size": features.feature_batch_size,
            "max_length": self.data_args.max_length,
            "dtype": features.feature_dtype,
            "cache_dir": features.cache_dir,
            "progress": not self.args.disable_tqdm,
        }

    def _loaded(self, name: str) -> tuple[Any, Any]:
        candidate = next(own for own in self.candidates if own.name == name)
        trust = self.recipe.trust_remote_code
        model, processor = load_for_target(candidate, self.data, seed=self.args.seed, trust_remote_code=trust)
        model.to(self.args.device)
        return model, processor

    def _read(self, model: Any, processor: Any, rows: Dataset) -> Dataset:
        return extract_features(model, rows, processor, **self._extraction())

    def _some(self, rows: Dataset) -> Dataset:
        most = self.recipe.max_rows
        return rows if len(rows) <= most else rows.select(random_rows(len(rows), most, seed=self.args.seed))

    def _kept(self, best: str) -> tuple[Any, Any, Probe, dict[str, float]]:
        """The recommended model with a probe as its head, fitted to all labelled rows, and its scores."""
        model, processor = self._loaded(best)
        bias = getattr(model.get_submodule(anatomy(model).head), "bias", None)
        kind = "ridge" if self.data.task == "regression" else "logistic"
        read = self._read(model, processor, self.data.train)
        probe = fit_probe(read, kind=kind, seed=self.args.seed, intercept=bias is not None)
        probe.fold_into(model)
        scores = {
            f"{name}_{metric}": value
            for name, split in (("eval", self.data.eval), ("test", self.data.test))
            if split is not None
            for metric, value in probe.score(self._read(model, processor, split)).items()
        }
        return model, processor, probe, scores

    def _write_distances(self, distances: dict[tuple[str, str], DomainDistance]) -> None:
        if not distances:
            return
        folder = Path(str(self.args.output_dir))
        for number, distance in enumerate(distances.values()):
            distance.plot(folder / ("distances.png" if not number else f"distances_{number + 1}.png"))
        said = (folder / "ranking.md").read_text(encoding="utf-8")
        with whole_file(folder / "ranking.md") as unfinished:
            unfinished.write_text(f"{said}\n{distances_section(distances)}\n", encoding="utf-8")

    def _write_results(
        self,
        ranking: SourceRanking,
        best: str,
        probe: Probe,
        scores: dict[str, float],
        distances: dict[tuple[str, str], DomainDistance],
    ) -> None:
        recommendation, (verdict, gains, _) = ranking.recommendation, ranking.transfer
        assert recommendation is not None
        summary: dict[str, Any] = {
            **scores,
            "recommended": best,
            "tied": list(recommendation.tied),
            "too_close_to_call": recommendation.too_close,
            "transfer": verdict,
            "against": {name: [gain.mean, gain.low, gain.high] for name, gain in gains.items()},
            "candidates": {
                own.name: {name: own.value(name) for name in ranking.scores} if own.scored else {"failed": own.reason}
                for own in ranking.candidates
            },
            "baselines": {own.name: own.value("probe") for own in ranking.baselines},
            "parameters": {own.name: own.cost.parameters for own in ranking.candidates if own.cost is not None},
            "probe_rows": probe.rows,
            "distances": [
                {"source": name, "features_of": of, **distance.as_dict()} for (name, of), distance in distances.items()
            ],
        }
        with whole_file(Path(str(self.args.output_dir)) / "all_results.json") as unfinished:
            unfinished.write_text(json.dumps(summary, indent=4), encoding="utf-8")

    def _save(
        self,
        ranking: SourceRanking,
        best: str,
        model: Any,
        processor: Any,
        probe: Probe,
        scores: dict[str, float],
        distances: dict[tuple[str, str], DomainDistance],
        started: float,
    ) -> None:
        folder = Path(str(self.args.output_dir))
        own = self.args.for_run(str(folder / MODEL), self.args.seed)
        own.push_to_hub, own.hub_token = self.args.push_to_hub, self.args.hub_token
        # not the name of the folder, which is the same for every target
        own.hub_model_id = self.args.hub_model_id or folder.resolve().name
        own.without_validation()  # the Trainer saves, but trains nothing
        trainer = TransferTrainer(model, own, processing_class=processor)
        trainer.save_model(_internal_call=True)  # without a push
        seconds = time.perf_counter() - started
        tell_of_selection(trainer.facts, ranking, self, best, probe, scores, distances, seconds)
        trainer.facts = replace(trainer.facts, model_name=folder.resolve().name)
        write_run_card(trainer)
        push_result(trainer, tasks=self.data.task)


def distances_section(distances: dict[tuple[str, str], DomainDistance]) -> str:
    """The distances as a section of a Markdown page."""
    told = {f"{shown_name(name)} ({shown_name(of)})": distance for (name, of), distance in distances.items()}
    return (
        "## Distance of source data\n\n"
        f"{distance_table(told)}\n\n"
        "In the features of the model in parentheses. A-distance: 0 if a linear classifier cannot tell the domains "
        "apart, 2 if it always can. Distances in features of different models do not compare, but for the first."
    )


def _table(features: Dataset) -> Any:
    return read_rows(features).features if "labels" in features.column_names else features


def _classes(features: Dataset) -> Any:
    if "labels" not in features.column_names:
        return None
    rows = read_rows(features)
    return None if rows.task == "regression" else rows.targets
