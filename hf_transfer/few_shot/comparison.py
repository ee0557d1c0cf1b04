"""All methods on the same episodes of novel classes: on features of the pretrained model, and trained on others."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import set_seed
from transformers.utils import logging

from hf_transfer.adapter_arguments import AdapterOptions
from hf_transfer.compare.results import Cell, Results, fingerprint
from hf_transfer.compare.runs import finite, loop_settings, shared
from hf_transfer.data.loading import TransferData
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.features import matrix
from hf_transfer.few_shot.arguments import FewShotArguments, FewShotFeatureArguments, FewShotLoopArguments
from hf_transfer.few_shot.class_split import all_rows, check_single_label, split_classes
from hf_transfer.few_shot.episodes import Episodes
from hf_transfer.few_shot.evaluation import evaluate_few_shot
from hf_transfer.few_shot.heads import FOLDABLE
from hf_transfer.few_shot.methods import META
from hf_transfer.few_shot.report import Outcome
from hf_transfer.few_shot.training import EpisodicRun, default_temperature
from hf_transfer.files import whole_file
from hf_transfer.recipe_arguments import DataArguments, ModelArguments


logger = logging.get_logger(__name__)

ACCURACIES = "episodes.json"
"""In the folder of a run: the accuracy in each episode."""

# options of the recipe that change no run by themselves
_IRRELEVANT = ("methods", "seeds", "resume", "template", "pairs_per_row", "contrastive_epochs")

__all__ = ["EpisodeComparison"]


class EpisodeComparison:
    """
    The methods of a recipe's arguments on episodes of classes that none of them was trained on.

    Args:
        recipe (`FewShotArguments`): classes, episodes and methods.
        features (`FewShotFeatureArguments`): how features of the pretrained model are read.
        model_args (`ModelArguments`): the model that all start from.
        data_args (`DataArguments`): how rows are chosen and prepared.
        args (`FewShotLoopArguments`): the loop; a folder below its `output_dir` for each run.
        adapter (`AdapterOptions`, *optional*): the adapter that is trained in place of the model.

    Raises:
        ValueError: if options, model or data do not fit, before anything is computed.
    """

    def __init__(
        self,
        recipe: FewShotArguments,
        features: FewShotFeatureArguments,
        model_args: ModelArguments,
        data_args: DataArguments,
        args: FewShotLoopArguments,
        *,
        adapter: AdapterOptions | None = None,
    ):
        self.recipe, self.features, self.model_args = recipe, features, model_args
        self.data_args, self.args, self.adapter = data_args, args, adapter or AdapterOptions()
        recipe.check(data_args, args)
        self._check_options()
        with args.main_process_first(desc="loading data"):
            self.base, self.novel = self._classes()
            self._check_pooling()
            self.rows = all_rows(self.novel)
        self.labels = np.asarray(self.rows["label"])
        self._check_episodes()
        self.model, self.processor = self.pretrained()
        self.outcomes: list[Outcome] = []
        self._prepare: Any = partial(prepare, processor=self.processor, max_length=data_args.max_length)
        for method in recipe.trained:  # what the last method cannot do must not cost the training of the others
            own = args.for_run(str(Path(str(args.output_dir)) / method), args.seed)
            self._run(method, 1.0).trainer(self._start(args.seed), self.processor, own)

    def _check_options(self) -> None:
        self.adapter.check_model(self.model_args)
        if self.features.views > 1:
            raise ValueError(
                f"`--views {self.features.views}`: the rows of an episode are counted, and views of one image would "
                "count as several. Leave it out."
            )

    def _check_pooling(self) -> None:
        self.features.check_adapter(self.adapter, self.recipe.meta_parameters, self.novel)
        if self.args.push_to_hub and not self.recipe.trained and not self.heads_read_them:
            raise ValueError(
                f"`--push_to_hub` with `--pooling {self.features.pooling}`: these features are not those that the "
                "head of the model is given, so there is no model to push. Leave one of them out."
            )

    def _classes(self) -> tuple[TransferData | None, TransferData]:
        recipe, seed = self.recipe, self.args.seed
        data = self.data_args.load(recipe.dataset_name, seed)
        check_single_label(data, recipe.dataset_name)
        if recipe.base_classes is not None:
            return split_classes(data, recipe.base_classes, seed=seed)
        if recipe.base_dataset_name is None:
            return None, data
        base = self.data_args.load(recipe.base_dataset_name, seed)
        check_single_label(base, recipe.base_dataset_name)
        if base.input_columns != data.input_columns:
            raise ValueError(
                f"`{recipe.base_dataset_name}` has {', '.join(base.input_columns)}, `{recipe.dataset_name}` "
                f"{', '.join(data.input_columns)}: what is learned from one cannot read the other. Name data of one "
                "kind."
            )
        return base, data

    def _check_episodes(self) -> None:
        """Draw nothing, but refuse what could not be drawn."""
        recipe = self.recipe
        names = self.novel.label_names
        shape = {"n_way": recipe.n_way, "k_shot": recipe.k_shot[-1], "queries": recipe.queries}
        Episodes(self.labels, **shape, label_names=names)
        for method in recipe.trained:
            assert self.base is not None  # `FewShotArguments` saw to it
            shape = {"n_way": recipe.ways(method), "k_shot": recipe.shots, "queries": recipe.train_queries}
            Episodes(np.asarray(self.base.train["label"]), **shape, label_names=self.base.label_names)

    def pretrained(self) -> tuple[Any, Any]:
        """The model that all start from, with a new head for the novel classes, and its processor."""
        set_seed(self.args.seed)
        return self.features.load(self.model_args, self.novel)

    @property
    def heads_read_them(self) -> bool:
        """Whether the features are those that the head of the model is given."""
        return self.features.pooling is None or self.features.pools_in_model(self.novel)

    def _start(self, seed: int) -> nn.Module:
        """The model that all runs of a seed start from, with a head for the base classes."""
        assert self.base is not None
        set_seed(seed)
        return self.adapter.add_to(self.features.load(self.model_args, self.base)[0])

    def _run(self, method: str, temperature: float) -> EpisodicRun:
        assert self.base is not None
        augment = self.data_args.augment(self.base, self.processor)
        return EpisodicRun(
            method,
            self.recipe,
            self._prepare(self.base.train, augment=augment),
            self._prepare(self.rows),
            collator_for(self.processor),
            self.recipe.temperature or temperature,
            self.args.seed,
        )

    def extract(self, rows: Dataset) -> Dataset:
        """Features of the pretrained model, pooled as `--pooling` says or as the model does for its head."""
        return self.features.extract(self.model.to(self.args.device), rows, self.processor, self.data_args)

    def settings(self) -> dict[str, Any]:
        """What every run depends on beside its method and seed."""
        recipe = {name: value for name, value in vars(self.recipe).items() if name not in _IRRELEVANT}
        return {
            **recipe,
            "pooling": self.features.pooling,
            **vars(self.model_args),
            **vars(self.data_args),
            **self.adapter.settings(),
            **loop_settings(self.args),
            "data_seed": self.args.seed,
        }

    def run(self) -> list[Outcome]:
        """Classify the episodes on features, train what is missing, and classify them again."""
        started = time.perf_counter()
        self.novel_features = self.extract(self.rows)
        base = None if self.base is None else matrix(self.extract(self.base.train))
        self.extraction_seconds = time.perf_counter() - started
        self.outcomes = [self._on_features(method, base) for method in self.recipe.on_features]
        if self.recipe.trained:
            assert base is not None
            self._train_all(default_temperature(base, self.recipe.distance))
        return self.outcomes

    def _on_features(self, method: str, base: np.ndarray | None) -> Outcome:
        started = time.perf_counter()
        accuracies = {}
        for k in self.recipe.k_shot:
            results = evaluate_few_shot(
                matrix(self.novel_features),
                self.labels,
                methods=[method],
                n_way=self.recipe.n_way,
                k_shot=k,
                queries=self.recipe.queries,
                episodes=self.recipe.episodes,
                seed=self.args.seed,
                base_features=None if base is None else base.mean(0, dtype=np.float64).astype(np.float32),
                device=self.args.device,
            )
            accuracies[k] = results.accuracies
        return Outcome(method, accuracies, time.perf_counter() - started)

    def _train_all(self, temperature: float) -> None:
        results = None
        if self.args.should_save:
            results = Results(str(self.args.output_dir), self.settings(), resume=self.recipe.resume)
        for method in self.recipe.trained:
            digest = fingerprint({"method": method})
            runs = []
            for seed in range(self.args.seed, self.args.seed + self.recipe.seeds):
                found = shared(None if results is None else self._finished(results, method, seed, digest))
                if found is not None:
                    logger.info(f"{method} with seed {seed} is finished: it is taken from results.json.")
                else:
                    found = shared(self._trained(method, seed, digest, temperature, results))
                runs.append(found)
            for name in runs[0][0]:
                accuracies = {k: np.stack([own[name][k] for own, _ in runs]) for k in self.recipe.k_shot}
                folders = [_folder(method, self.args.seed + number) for number in range(len(runs))]
                seconds = float(np.mean([seconds for _, seconds in runs]))
                of = method if name != method or method not in META else None
                self.outcomes.append(Outcome(name, accuracies, seconds, folders, of))

    def _finished(self, results: Results, method: str, seed: int, digest: str) -> Any:
        cell, folder = results.found(method, seed), Path(str(self.args.output_dir)) / _folder(method, seed)
        there = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
        if cell is None or cell.fingerprint != digest or not there or not (folder / ACCURACIES).is_file():
            return None
        stored = json.loads((folder / ACCURACIES).read_text(encoding="utf-8"))
        found = {name: {int(k): np.asarray(own) for k, own in by_k.items()} for name, by_k in stored.items()}
        return found, cell.diagnostics["seconds"]

    def _trained(self, method: str, seed: int, digest: str, temperature: float, results: Results | None) -> Any:
        folder = Path(str(self.args.output_dir)) / _folder(method, seed)
        logger.info(f"{method} with seed {seed}, in {folder}")
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
        run = self._run(method, temperature)
        own = self.args.for_run(str(folder), seed)
        found, seconds = run.train(run.trainer(self._start(seed), self.processor, own))
        if results is not None:
            stored = {name: {k: own.tolist() for k, own in by_k.items()} for name, by_k in found.items()}
            with whole_file(folder / ACCURACIES) as unfinished:
                unfinished.write_text(json.dumps(stored), encoding="utf-8")
            scores = {f"{name}_{k}_shot": float(own.mean()) for name, by_k in found.items() for k, own in by_k.items()}
            timed: Any = {"seconds": seconds}
            results.add(Cell(method, seed, digest, _folder(method, seed), finite(scores), {}, timed))
        return found, seconds

    def can_keep(self, outcome: Outcome) -> str | None:
        """The method whose head gives an outcome's answers; None if no linear head does, on features of the model."""
        if outcome.features_of is not None:
            cosine = outcome.method != outcome.features_of or self.recipe.distance == "cosine"
            return "nearest_mean" if cosine else "prototypes"
        foldable = outcome.method in FOLDABLE and self.heads_read_them
        return outcome.method if foldable else None


def _folder(method: str, seed: int) -> str:
    return f"{method}/seed_{seed}"
