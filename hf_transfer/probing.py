"""One run of the probing recipe: features once, probes on them, the best one written into the model's own head."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from datasets import Dataset
from transformers import set_seed
from transformers.utils import logging

from hf_transfer.anatomy import anatomy
from hf_transfer.compare.tables import markdown_table
from hf_transfer.data.loading import TransferData
from hf_transfer.data.subsets import stratified_split
from hf_transfer.feature_arguments import FeatureArguments
from hf_transfer.features import Probe, fit_probe
from hf_transfer.features.layers.layer_report import layer_report
from hf_transfer.files import whole_file
from hf_transfer.fine_tuning import HELD_OUT
from hf_transfer.hub import push_result
from hf_transfer.model_card.environment import device_name
from hf_transfer.model_card.facts import RunFacts
from hf_transfer.model_card.recipes import data_facts, write_run_card
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments
from hf_transfer.trainer import TransferTrainer


logger = logging.get_logger(__name__)

PROBES = ("logistic", "ridge", "nearest_class_mean", "knn", "mlp")
FOLDABLE = ("logistic", "ridge", "nearest_class_mean")

__all__ = ["FOLDABLE", "PROBES", "ProbeArguments", "Probing"]


@dataclass
class ProbeArguments:
    """What is fitted on the features."""

    _argument_group_name = "the probe"

    probes: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Probes to fit, by default logistic, or ridge for real-valued labels; of several that can become "
            "the model's head the one that validates best does. knn and mlp cannot, and are reported beside.",
            "choices": list(PROBES),
        },
    )
    layers: bool = field(
        default=False,
        metadata={"help": "Also probe every block, for which one transfers best; leaves layers.md and layers.png."},
    )

    def __post_init__(self):
        if self.probes and not set(self.probes) & set(FOLDABLE):
            raise ValueError(
                f"`--probes {' '.join(self.probes)}`: none of these is linear, so none can become the model's head, "
                f"and there would be no model to save. Add one of {', '.join(FOLDABLE)}."
            )


class Probing:
    """
    Feature extraction on one data set, as the arguments of the recipe describe it.

    Args:
        dataset (`str`): Hub id, folder, file or embedded data set.
        options (`ProbeArguments`): what is fitted.
        feature_args (`FeatureArguments`): how features are read.
        model_args (`ModelArguments`): which model.
        data_args (`DataArguments`): which rows.
        args (`LoopArguments`): folder, seed, device and Hub.

    Raises:
        ValueError: if options contradict each other or the data, before the model runs.
    """

    def __init__(
        self,
        dataset: str,
        options: ProbeArguments,
        feature_args: FeatureArguments,
        model_args: ModelArguments,
        data_args: DataArguments,
        args: LoopArguments,
    ):
        feature_args.check(data_args)
        self.options, self.feature_args, self.data_args, self.args = options, feature_args, data_args, args
        set_seed(args.seed)
        with args.main_process_first(desc="loading data"):
            data = data_args.load(dataset, args.seed)
            if options.layers and not (data.eval or data.test):
                raise ValueError(
                    "`--layers` without a validation or test split: blocks would be ranked by the rows they were "
                    "fitted on. Name a split, or hold rows out with `--validation_fraction 0.2`."
                )
            self.data: TransferData = data
            self.model, self.processor = model_args.load(data)
            self.kinds = self._kinds(options.probes)
        self._dataset = data_facts(dataset, data, config=data_args.dataset_config_name)
        self.model.to(args.device)
        self.seconds: dict[str, float] = {}

    def _kinds(self, wanted: Sequence[str]) -> list[str]:
        """The probes to fit, refused now if one is not for the labels or none is for the head."""
        regression = self.data.task == "regression"
        kinds = list(dict.fromkeys(wanted)) or ["ridge" if regression else "logistic"]
        classifiers = {"logistic", "nearest_class_mean"} & set(kinds)
        if regression and classifiers:
            raise ValueError(
                f"`--probes {' '.join(sorted(classifiers))}` with real-valued labels: these predict classes, of which "
                "there are none. Choose ridge, and knn or mlp beside it."
            )
        self.head_has_bias = self.model.get_submodule(anatomy(self.model).head).bias is not None
        self.foldable = [kind for kind in kinds if kind in FOLDABLE]
        if not self.head_has_bias:  # decoders; a distance to class means cannot do without
            self.foldable = [kind for kind in self.foldable if kind != "nearest_class_mean"]
        if not self.foldable:
            raise ValueError(
                f"`--probes {' '.join(kinds)}` for {type(self.model).__name__}, whose head has no bias: "
                "nearest_class_mean needs a constant term and could not become the head. Add logistic or ridge."
            )
        return kinds

    def features(self) -> dict[str, Dataset]:
        """The features of every split there is."""
        splits = {"train": self.data.train, "eval": self.data.eval, "test": self.data.test}
        started = time.perf_counter()
        found = {
            name: self.feature_args.extract(
                self.model,
                split,
                self.processor,
                self.data_args,
                training=name == "train",
                seed=self.args.seed,
            )
            for name, split in splits.items()
            if split is not None
        }
        self.seconds["extraction"] = time.perf_counter() - started
        return found

    def run(self) -> dict[str, Any]:
        """Extract, fit, fold, save, push; the scores as they are written to all_results.json."""
        splits = self.features()
        started = time.perf_counter()
        compared = len(self.foldable) > 1
        held_out = compared and "eval" not in splits
        known = dict(splits)
        if held_out:
            known["train"], known["eval"] = self._held_out(splits["train"])
        probes = {kind: self._fitted(kind, known) for kind in self.kinds}
        scores = {kind: _scores(probe, known) for kind, probe in probes.items()}
        chosen = self._chosen(scores) if compared else self.foldable[0]
        if held_out:
            probes[chosen] = self._fitted(chosen, splits)  # on all training rows
            scores[chosen] |= _scores(probes[chosen], splits)
        self.seconds["probes"] = time.perf_counter() - started
        logger.info(_table(scores, chosen))
        probes[chosen].fold_into(self.model)
        results = self._results(chosen, probes[chosen], scores)
        trainer = self._save(probes, results)
        trainer.facts = self._facts(chosen, probes[chosen], scores)
        write_run_card(trainer)
        if self.options.layers:
            self._layers()
        push_result(trainer, tasks=self.data.task)
        return results

    def _fitted(self, kind: str, splits: Mapping[str, Dataset]) -> Probe:
        return fit_probe(
            splits["train"],
            kind=kind,
            validation=splits.get("eval"),
            seed=self.args.seed,
            intercept=self.head_has_bias or kind not in self.foldable,
        )

    def _held_out(self, features: Dataset) -> tuple[Dataset, Dataset]:
        """The features of the training rows in two parts, the views of an image in one."""
        single = bool(self.data.label_names) and self.data.task != "token-classification"
        ids = np.asarray(features["id"][:])
        rows = np.unique(ids, return_index=True)[1]  # ids are the numbers from 0 on
        strata = np.asarray(features["labels"][:])[rows] if single else np.zeros(len(rows), dtype=np.int64)
        _, held_out = stratified_split(strata, HELD_OUT, seed=self.args.seed, names=self.data.label_names)
        logger.info(f"{len(held_out)} training rows are held out to choose between the probes.")
        inside = np.isin(ids, held_out)
        return features.select(np.flatnonzero(~inside)), features.select(np.flatnonzero(inside))

    def _chosen(self, scores: Mapping[str, Mapping[str, float]]) -> str:
        """The probe that validates best of those that can become the head."""
        name, sign = ("mse", -1) if self.data.task == "regression" else ("accuracy", 1)
        return max(self.foldable, key=lambda kind: sign * scores[kind][f"eval_{name}"])

    def _results(self, chosen: str, probe: Probe, scores: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        return {
            **scores[chosen],
            "probe": chosen,
            "probe_strength": probe.strength,
            "probes": {kind: dict(values) for kind, values in scores.items()},
            "train_samples": probe.rows,
            **{f"{name}_seconds": round(value, 3) for name, value in self.seconds.items()},
        }

    def _facts(self, chosen: str, probe: Probe, scores: Mapping[str, Mapping[str, float]]) -> RunFacts:
        facts = RunFacts(task=self.data.task, inputs=list(self.data.input_columns), data=[self._dataset])
        strength = "" if probe.strength is None else f" (strength {probe.strength:.3g})"
        facts.strategy = [
            "The model stayed frozen. Its features were computed once, what its head is given, and a "
            f"{chosen.replace('_', ' ')} probe{strength} was fitted on them and written into the head, with the "
            "standardisation of the features.",
        ]
        facts.method, facts.seeds = chosen, [self.args.seed]
        header, rows = _cells(scores, chosen)
        named = [name.replace("eval_", "validation ").replace("_", " ") for name in header]
        facts.comparison = markdown_table(named, rows) if len(scores) > 1 else None
        facts.add_scores(scores[chosen])
        facts.seconds, facts.device = sum(self.seconds.values()), device_name(self.args)
        return facts

    def _save(self, probes: Mapping[str, Probe], results: Mapping[str, Any]) -> TransferTrainer:
        folder = Path(str(self.args.output_dir))
        self.args.without_validation()  # the Trainer saves, but trains nothing
        trainer = TransferTrainer(self.model, self.args, processing_class=self.processor)
        if trainer.is_world_process_zero():
            for kind, probe in probes.items():
                probe.save(folder / "probes" / kind)
            with whole_file(folder / "all_results.json") as unfinished:
                unfinished.write_text(json.dumps(results, indent=4), encoding="utf-8")
        trainer.save_model(_internal_call=True)  # without a push
        return trainer

    def _layers(self) -> None:
        """Which block transfers best, judged on the validation rows, else on the test rows."""
        judge = cast(Dataset, self.data.eval or self.data.test)
        report = layer_report(
            self.model,
            self.data.train,
            judge,
            self.processor,
            seed=self.args.seed,
            extraction={"cache_dir": self.feature_args.cache_dir, "max_length": self.data_args.max_length},
        )
        if self.args.should_save:
            folder = Path(str(self.args.output_dir))
            with whole_file(folder / "layers.md") as unfinished:
                unfinished.write_text(report.table() + "\n", encoding="utf-8")
            report.plot(folder / "layers.png")
        logger.info(f"Which block transfers best:\n{report.table()}")


def _scores(probe: Probe, splits: Mapping[str, Dataset]) -> dict[str, float]:
    return {
        f"{name}_{metric}": value
        for name, split in splits.items()
        if name != "train"
        for metric, value in probe.score(split).items()
    }


def _table(scores: Mapping[str, Mapping[str, float]], chosen: str) -> str:
    return f"Probes on the features (bold: the one that becomes the head)\n{markdown_table(*_cells(scores, chosen))}"


def _cells(scores: Mapping[str, Mapping[str, float]], chosen: str) -> tuple[list[str], list[list[str]]]:
    names = list(next(iter(scores.values())))
    rows = []
    for kind, values in scores.items():
        shown = f"**{kind}**" if kind == chosen and len(scores) > 1 else kind
        rows.append([shown, *(f"{values[name]:.4f}" for name in names)])
    return ["probe", *names], rows
