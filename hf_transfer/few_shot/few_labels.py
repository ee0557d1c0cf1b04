"""All classes from few labels each: one run of a method, and all methods on all seeds."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoProcessor, set_seed
from transformers.utils import logging

from hf_transfer.adapter_arguments import AdapterOptions
from hf_transfer.compare.results import Cell, Results, fingerprint
from hf_transfer.compare.runs import finite, loop_settings, shared, without_timings
from hf_transfer.data.loading import TransferData
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.few_shot.arguments import FewShotArguments, FewShotFeatureArguments, FewShotLoopArguments
from hf_transfer.few_shot.class_names import head_from_class_names
from hf_transfer.few_shot.class_split import check_single_label
from hf_transfer.few_shot.contrastive import contrastive_fine_tune
from hf_transfer.few_shot.heads import as_probe
from hf_transfer.few_shot.methods import FEW_LABELS
from hf_transfer.metrics import compute_metrics_for
from hf_transfer.model_card.recipes import keep_facts
from hf_transfer.models import resolve_name
from hf_transfer.recipe import score
from hf_transfer.recipe_arguments import DataArguments, ModelArguments
from hf_transfer.trainer import TransferTrainer


logger = logging.get_logger(__name__)

ON_FEATURES = {"nearest_mean": "nearest_mean", "probe": "logistic"}
"""Methods that leave the backbone alone, and what becomes the head."""

# options of the recipe that every run depends on
_RELEVANT = ("dataset_name", "template", "pairs_per_row", "contrastive_epochs")

__all__ = ["FewLabelComparison"]


class FewLabelComparison:
    """
    Every method of a recipe's arguments on few labels of each class, with every seed.

    Args:
        recipe (`FewShotArguments`): methods and seeds, each of which draws other rows.
        features (`FewShotFeatureArguments`): how features of the frozen model are computed.
        model_args (`ModelArguments`): the model that all start from.
        data_args (`DataArguments`): how rows are chosen and prepared.
        args (`FewShotLoopArguments`): the loop; a folder below its `output_dir` for each run.
        adapter (`AdapterOptions`, *optional*): the adapter that is trained in place of the model.

    Raises:
        ValueError: if options, model or data do not fit, before anything is trained.
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
        self.adapter.check_model(model_args)
        self._check_options()
        self.data = self._load(args.seed)
        check_single_label(self.data, recipe.dataset_name)
        self._check_pooling()
        if self.data.eval is None and self.data.test is None:
            raise ValueError(
                f"`{recipe.dataset_name}` has neither a validation nor a test split: nothing could be scored. Name "
                "one, or hold rows out with `--validation_fraction 0.5`; only `--samples_per_class` rows are trained "
                "on."
            )
        for name in recipe.methods:  # what the last method cannot do must not cost the training of the others
            if name.startswith("class_names"):
                self._start(name, self.data, args.seed)
        self.cells: list[Cell] = []

    def _check_options(self) -> None:
        if self.features.views > 1:
            raise ValueError(
                f"`--views {self.features.views}` with `--mode classes`: the labelled rows are counted, and views of "
                "one image would count as several. Leave it out."
            )
        rows = self.args.per_device_train_batch_size
        if "contrastive" in self.recipe.methods and rows % 2:
            raise ValueError(
                f"`--per_device_train_batch_size {rows}` with `--methods contrastive`, whose batches hold pairs of "
                f"rows: one would be torn apart. Give an even number, such as {rows + 1}."
            )

    def _check_pooling(self) -> None:
        self.features.check_adapter(self.adapter, None, self.data)
        pooling = self.features.pooling
        if pooling is not None and not self.features.pools_in_model(self.data):
            raise ValueError(
                f"`--pooling {pooling}` with `--mode classes` and images: every method ends in a head, which is given "
                "one row as the model pools it. Leave it out; `--mode episodes` compares poolings."
            )

    def _load(self, seed: int) -> TransferData:
        with self.args.main_process_first(desc="loading data"):
            return self.data_args.load(self.recipe.dataset_name, seed)

    def settings(self) -> dict[str, Any]:
        """What every run depends on beside its method and seed."""
        return {
            **{name: getattr(self.recipe, name) for name in _RELEVANT},
            "pooling": self.features.pooling,
            **vars(self.model_args),
            **vars(self.data_args),
            **self.adapter.settings(),
            **loop_settings(self.args),
        }

    def run(self) -> list[Cell]:
        """Train what is missing; all runs, by seed and method."""
        results = None
        if self.args.should_save:
            results = Results(str(self.args.output_dir), self.settings(), resume=self.recipe.resume)
        for seed in range(self.args.seed, self.args.seed + self.recipe.seeds):
            data = self.data if seed == self.args.seed else None
            for method in self.recipe.methods:
                digest = fingerprint({"method": method})
                cell = shared(None if results is None else self._finished(results, method, seed, digest))
                if cell is not None:
                    logger.info(f"{method} with seed {seed} is finished: its scores are taken from results.json.")
                else:
                    data = data or self._load(seed)
                    cell = shared(self._cell(method, data, seed, digest))
                    if results is not None:
                        results.add(cell)
                self.cells.append(cell)
        return self.cells

    def _finished(self, results: Results, method: str, seed: int, digest: str) -> Cell | None:
        cell = results.found(method, seed)
        if cell is None or cell.fingerprint != digest:
            return None
        folder = Path(str(self.args.output_dir)) / cell.folder
        there = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
        return cell if there else None

    def _cell(self, method: str, data: TransferData, seed: int, digest: str) -> Cell:
        name = f"{method}/seed_{seed}"
        folder = Path(str(self.args.output_dir)) / name
        logger.info(f"{method} with seed {seed}, in {folder}")
        own = self.args.for_run(str(folder), seed)
        own.without_validation()
        if own.should_save:
            folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        trainer = self._trained(method, data, own)
        seconds = time.perf_counter() - started
        ready = partial(prepare, processor=trainer.processing_class, max_length=self.data_args.max_length)
        scores: dict[str, float] = {}
        for role, split in (("eval", data.eval), ("test", data.test)):
            if split is not None:
                scores |= score(trainer, ready(split), role)
        trainer.save_model()
        keep_facts(trainer)
        timed: Any = {"seconds": seconds}
        return Cell(method, seed, digest, name, finite(without_timings(scores)), {}, timed)

    def _start(self, method: str, data: TransferData, seed: int) -> tuple[Any, Any]:
        """The model of a method before any training, and its processor."""
        set_seed(seed)
        if not method.startswith("class_names"):
            return self.features.load(self.model_args, data)
        names = list(data.label_names)
        template = self.recipe.template
        if data.input_columns != ("image",):
            model, processor = self.features.load(self.model_args, data)
            return head_from_class_names(model, processor, names, template=template), processor
        options: dict[str, Any] = {
            "revision": self.model_args.model_revision,
            "trust_remote_code": self.model_args.trust_remote_code,
        }
        name = self.model_args.model_name_or_path
        if name is None:
            raise ValueError(
                f"`--methods {method}` with a model of random weights, which knows no words: class names mean nothing "
                "to it. Pass a pretrained model with towers for images and texts by `--model_name_or_path`."
            )
        whole = AutoModel.from_pretrained(resolve_name(name), **options)
        both = AutoProcessor.from_pretrained(resolve_name(name), **options)
        return head_from_class_names(whole, both, names, template=template), getattr(both, "image_processor", both)

    def _trained(self, method: str, data: TransferData, args: FewShotLoopArguments) -> TransferTrainer:
        """A trainer of the finished model; `args` are changed."""
        model, processor = self._start(method, data, args.seed)
        if method in ON_FEATURES:
            features = self.features.extract(model.to(args.device), data.train, processor, self.data_args)
            as_probe(ON_FEATURES[method], features, label_names=data.label_names, seed=args.seed).fold_into(model)
        augment = self.data_args.augment(data, processor)
        if method == "contrastive":
            model = self.adapter.add_to(model)
            args.num_train_epochs = self.recipe.contrastive_epochs
            contrastive_fine_tune(
                model,
                processor,
                data.train,
                pairs_per_row=self.recipe.pairs_per_row,
                args=args,
                max_length=self.data_args.max_length,
                augment=augment,
            )
        trains = method.endswith("fine_tuning")
        if method == "class_names_fine_tuning":
            args.head_lr = args.learning_rate  # the head is no new one, and would be lost at the rate of those
        rows: Any = prepare(data.train, processor, max_length=self.data_args.max_length, augment=augment)
        trainer = TransferTrainer(
            self.adapter.add_to(model) if trains else model,
            args,
            train_dataset=rows if trains else None,
            processing_class=processor,
            data_collator=collator_for(processor),
            compute_metrics=compute_metrics_for(data.task, data.label_names),
        )
        if trains:
            result = trainer.train()
            trainer.save_metrics("train", result.metrics)
        else:
            trainer.facts.strategy.append(f"{method}: {FEW_LABELS[method]}.")
        return trainer
