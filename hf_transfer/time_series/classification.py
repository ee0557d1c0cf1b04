"""Classification of series: strategies beside baselines, on shares of the labels and with several seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformers.utils import logging

from hf_transfer.anatomy import anatomy
from hf_transfer.compare.execution.failures import reason_of
from hf_transfer.compare.results import Cell, Results, fingerprint
from hf_transfer.compare.runs import finite, loop_settings, shared
from hf_transfer.data.subsets import stratified_split
from hf_transfer.features.cache.digests import weights_digest
from hf_transfer.files import whole_file
from hf_transfer.model_card.naming import public_name
from hf_transfer.model_card.recipes import keep_facts
from hf_transfer.repeats import repeats_table, summarise
from hf_transfer.time_series.arguments import ForecasterArguments, SeriesArguments, SeriesLoopArguments
from hf_transfer.time_series.classification_closing import close_classification
from hf_transfer.time_series.classifier_strategies import CLASSIFIER_STRATEGIES, classifier_strategies
from hf_transfer.time_series.classifiers import (
    SeriesRows,
    fitted_processor,
    load_classifier,
    new_classifier,
    series_digest,
)
from hf_transfer.time_series.comparison import data_digest
from hf_transfer.time_series.labelled import read_labelled_series
from hf_transfer.time_series.pretraining import pretrain
from hf_transfer.time_series.probing import BASELINES, baseline_answers, fit_classifier_head
from hf_transfer.time_series.processor import SeriesProcessor
from hf_transfer.time_series.reading import read_series
from hf_transfer.time_series.strategies import (
    PROBE_SCRATCH,
    UNTRANSFERRED,
    callbacks_of,
    objectives_of,
    plain_model,
    rates,
    start_model,
)
from hf_transfer.trainer import TransferTrainer


HELD_OUT = 0.2
"""Share of the training rows that strategies and checkpoints are chosen on, where the data has no split for it."""

FITTED = ("probe", PROBE_SCRATCH)
"""Strategies without a step: the head is fitted."""

logger = logging.get_logger(__name__)

__all__ = ["ClassificationComparison", "Part", "accuracy", "run_classification"]


@dataclass(frozen=True)
class Part:
    """
    A share of the training rows, and what is judged, all scaled by that share alone.

    Args:
        processor ([`SeriesProcessor`]): fitted on the share.
        train ([`SeriesRows`]): the share.
        judged (`dict[str, SeriesRows]`): `eval`, and `test` where there is one.
    """

    processor: SeriesProcessor
    train: SeriesRows
    judged: dict[str, SeriesRows]


def run_classification(recipe: SeriesArguments, model_args: ForecasterArguments, args: SeriesLoopArguments) -> Cell:
    """
    What `recipes/time_series.py --task classification` does: compare, write comparison.md and all_results.json, and
    save the best model with its processor.

    Args:
        recipe (`SeriesArguments`): the labelled series, shares, strategies and seeds.
        model_args (`ForecasterArguments`): what is transferred, or how it is pretrained.
        args (`SeriesLoopArguments`): the loop.

    Returns:
        `Cell`: the run whose model was kept.

    Raises:
        ValueError: if options or data do not fit, or every run failed.
    """
    comparison = ClassificationComparison(recipe, model_args, args)
    comparison.run()
    return close_classification(comparison)


def accuracy(answers: np.ndarray, labels: Sequence[int]) -> float:
    """
    Share of right answers.

    Example:
        >>> accuracy(np.array([0, 1, 1, 1]), [0, 1, 1, 0])
        0.75
    """
    return float(np.mean(np.asarray(answers) == np.asarray(labels)))


class ClassificationComparison:
    """
    Strategies and baselines on shares of labelled series.

    Args:
        recipe, model_args, args: as for [`run_classification`].

    Raises:
        ValueError: if options or data do not fit, before anything is trained.
    """

    def __init__(self, recipe: SeriesArguments, model_args: ForecasterArguments, args: SeriesLoopArguments):
        self.recipe, self.model_args, self.args = recipe, model_args, args
        transfers = bool(recipe.source_series) or model_args.model_name_or_path is not None
        self.strategies = classifier_strategies(recipe.strategies, transfers=transfers)
        with args.main_process_first(desc="reading series"):
            self.data = read_labelled_series(
                recipe.target_series, label_column=recipe.label_column, validation_fraction=HELD_OUT, seed=args.seed
            )
            self.sources = [read_series(name, gaps=cast(Any, recipe.gaps))[0] for name in recipe.source_series]
        assert self.data.eval is not None  # held out if the data has none
        self.judged = {"eval": self.data.eval}
        if self.data.test is not None:
            self.judged["test"] = self.data.test
        self.judged_on = "test" if "test" in self.judged else "eval"
        self.folder = Path(str(args.output_dir))
        self.cells: list[Cell] = []
        self.failures: list[str] = []
        self.pretrained: str | Path | None = model_args.model_name_or_path
        self.source_digest: str | None = None
        if self.pretrained is not None:
            model = self.model()  # what does not fit must not cost a run first
            self.source_digest = weights_digest(model, without=[anatomy(model).head])  # the head is new

    def run(self) -> list[Cell]:
        """Pretrain and train what is missing; all finished runs."""
        results = None
        if self.args.should_save:
            results = Results(self.folder, self.settings(), resume=self.recipe.resume)
        if self.sources:
            self.pretrained = self._pretrain()
        for share in self.recipe.few:
            for number in range(self.recipe.seeds):
                seed = self.args.seed + number
                part = self.part(share, seed)
                for name in (*BASELINES, *self.strategies):
                    self._add(results, name, share, seed, part)
        return self.cells

    def part(self, share: float, seed: int) -> Part:
        """A share of the training rows: of every class as large a part, other rows with each seed."""
        train = self.data.train
        if share < 1:
            labels = np.asarray(train["label"])
            _, chosen = stratified_split(labels, share, seed=seed, names=self.data.label_names)
            train = train.select(chosen)
        processor = fitted_processor(train)
        judged = {name: SeriesRows(split, processor) for name, split in self.judged.items()}
        return Part(processor, SeriesRows(train, processor), judged)

    def model(self) -> Any:
        """The classifier that strategies start from; its head is new."""
        shape: dict[str, Any] = {"channels": self.data.channels, "length": self.data.length}
        own, shape = self.model_args, shape | {"label_names": self.data.label_names}
        if self.pretrained is None:
            return new_classifier(cast(Any, own.kind), size=cast(Any, own.size), overrides=self._overrides, **shape)
        here = own.model_name_or_path is None
        return load_classifier(
            self.pretrained,
            interpolate_positions=own.interpolate_positions,
            revision="main" if here else own.model_revision,
            **shape,
        )[0]

    def settings(self) -> dict[str, Any]:
        """What every run depends on beside its strategy, share and seed."""
        recipe = ("pretrained_lr", "early_stopping_patience", "stages", "lora_rank", "l2sp_weight")
        model = {name: value for name, value in vars(self.model_args).items() if name != "model_name_or_path"}
        return {
            **{name: getattr(self.recipe, name) for name in recipe},
            **{
                f"rows_{name}": series_digest(split)
                for name, split in {"train": self.data.train, **self.judged}.items()
            },
            "sources": [data_digest(source) for source in self.sources],
            "model": public_name(self.model_args.model_name_or_path)[0],
            "model_digest": self.source_digest,
            **model,
            **loop_settings(self.args),
        }

    @property
    def _overrides(self) -> Any:
        return self.model_args.config_overrides

    def _add(self, results: Results | None, name: str, share: float, seed: int, part: Part) -> None:
        key, folder = f"{name}@{share:g}", f"few_{share:g}/{name}/seed_{seed}"
        digest = fingerprint({"run": key})
        cell = None if results is None else results.found(key, seed, digest)
        if cell is not None and name in CLASSIFIER_STRATEGIES and not (self.folder / folder / "config.json").is_file():
            cell = None
        cell = shared(cell)
        if cell is None:
            started = time.perf_counter()
            try:
                scores = self._baseline(name, part) if name in BASELINES else self._trained(name, folder, seed, part)
            except Exception as error:
                if self.args.world_size > 1:  # the other ranks may be waiting within a step
                    raise
                logger.warning(f"{key} with seed {seed} failed: {reason_of(error)}")
                self.failures.append(f"{key} with seed {seed}: {reason_of(error)}")
                return
            cell = Cell(key, seed, digest, folder, finite(scores), {}, {"seconds": time.perf_counter() - started})
            if results is not None:
                results.add(cell)
            cell = shared(cell)
        self.cells.append(cell)

    def _baseline(self, name: str, part: Part) -> dict[str, float]:
        return {
            f"{split}_accuracy": accuracy(baseline_answers(name, part.train, rows, part.judged["eval"]), rows.labels)
            for split, rows in part.judged.items()
        }

    def _trained(self, name: str, folder: str, seed: int, part: Part) -> dict[str, float]:
        args = self.args.for_run(str(self.folder / folder), seed)
        args.data_seed = seed
        model = start_model(name, self.model(), seed=seed, head_is_new=True, lora_rank=self.recipe.lora_rank)
        patience = self.recipe.early_stopping_patience if args.load_best_model_at_end else 0
        options: dict[str, Any] = {"processing_class": part.processor}
        if name in FITTED:
            fit_classifier_head(model.to(args.device), part.train, part.judged["eval"])
            args.without_validation()
        else:
            args.learning_rate, args.head_lr = rates(
                name,
                learning_rate=args.learning_rate,
                pretrained_lr=self.recipe.pretrained_lr or args.learning_rate,
                head_is_new=True,
            )
            options |= {
                "train_dataset": part.train,
                "eval_dataset": part.judged["eval"],
                "objectives": objectives_of(name, l2sp_weight=self.recipe.l2sp_weight),
                "callbacks": callbacks_of(name, stages=self.recipe.stages, patience=patience),
            }
        trainer = TransferTrainer(model, args, **options)
        if name not in FITTED:
            trainer.train()
        keep_facts(trainer)
        scores = {}
        for split, rows in part.judged.items():
            logits = trainer.predict(cast(Any, rows)).predictions
            if not np.isfinite(logits).all():
                raise ValueError("the logits are not finite; lower `--learning_rate`")
            scores[f"{split}_accuracy"] = accuracy(np.argmax(logits, -1), rows.labels)
        if trainer.attachment is not None:
            trainer.attachment.detach()
        if args.should_save:
            kept = plain_model(trainer.accelerator.unwrap_model(cast(Any, trainer.model)))
            kept.save_pretrained(str(args.output_dir))
            part.processor.save_pretrained(str(args.output_dir))
        return scores

    def _pretrain(self) -> Path:
        own, folder = self.model_args, self.folder / "pretrained"
        options = {"kind": own.kind, "mode": own.pretraining, "size": own.size, "overrides": self._overrides}
        digest = fingerprint({**self.settings(), "seed": self.args.seed})
        kept = folder / "of.json"
        there = kept.is_file() and json.loads(kept.read_text(encoding="utf-8")) == digest
        if shared(there and self.recipe.resume and (folder / "config.json").is_file()):
            return folder
        args = self.args.for_run(str(folder), self.args.seed)
        args.num_train_epochs, args.max_steps = own.pretraining_epochs, own.pretraining_steps
        args.learning_rate = own.pretraining_lr
        pretrain(self.sources, args, context_length=self.data.length, **cast(Any, options))
        if self.args.should_save:
            with whole_file(kept) as unfinished:
                unfinished.write_text(json.dumps(digest), encoding="utf-8")
        return folder

    def scores(self, name: str, share: float, score: str) -> dict[int, float]:
        """A score of a strategy or baseline on a share, by seed."""
        cells = [cell for cell in self.cells if cell.method == f"{name}@{share:g}"]
        return {cell.seed: float(cell.scores[score] or 0.0) for cell in cells}

    def table(self, share: float) -> str:
        """Accuracy on the rows that are judged on, with the differences to what transfer must beat."""
        by_name = {
            name: own
            for name in (*BASELINES, *self.strategies)
            if (own := self.scores(name, share, f"{self.judged_on}_accuracy"))
        }
        return repeats_table(by_name, baseline=self.reference(share))

    def reference(self, share: float) -> str | None:
        """What transfer must beat: `scratch` or `probe_scratch`, the better on the evaluation rows."""
        means = {
            name: summarise(own).mean for name in UNTRANSFERRED if (own := self.scores(name, share, "eval_accuracy"))
        }
        return max(means, key=lambda name: means[name], default=None)
