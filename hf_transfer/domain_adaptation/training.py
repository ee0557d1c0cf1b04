"""One run of a comparison: a method trained on the domains, scored on both, its model and outputs saved."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from datasets import Dataset
from transformers import TrainerCallback, set_seed
from transformers.utils import logging

from hf_transfer.adapter_arguments import AdapterOptions
from hf_transfer.callbacks.target_validation import TargetValidation
from hf_transfer.data.columns import DOMAIN_COLUMN
from hf_transfer.data.views import TwoViewsCollator
from hf_transfer.domain_adaptation.domains import Domains
from hf_transfer.domain_adaptation.methods import TARGET_ORACLE, Method
from hf_transfer.domain_adaptation.outputs import Outputs, model_outputs
from hf_transfer.metrics import MAIN_METRIC, compute_metrics_for
from hf_transfer.model_card.recipes import keep_facts
from hf_transfer.objectives.domain_adaptation.consistency_regularization import FixMatch
from hf_transfer.recipe import score
from hf_transfer.recipe_arguments import LoopArguments, ModelArguments
from hf_transfer.trainer import TransferTrainer
from hf_transfer.validators.scores import NAMES, ORACLE_NAMES


logger = logging.get_logger(__name__)

OUTPUTS = "outputs.safetensors"

__all__ = ["OUTPUTS", "Run", "same_steps"]


def same_steps(args: LoopArguments, domains: Domains) -> int:
    """
    The optimizer steps of every run: `--max_steps`, or as many as `--num_train_epochs` passes over the longest domain
    take, `per_device_train_batch_size` rows of it a batch.
    """
    if args.max_steps > 0:
        return args.max_steps
    rows = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    return math.ceil(args.num_train_epochs * domains.longest / rows)


class Run:
    """
    The training of one method with one seed.

    Every batch has `per_device_train_batch_size` rows of each source; methods with a term of the loss add as many of
    each target. Runs of one seed start from the same weights.

    Args:
        method (`Method`): what is trained.
        domains (`Domains`): on what.
        model_args (`ModelArguments`): from which model.
        args (`LoopArguments`): the loop, with folder and seed of this run; it is changed.
        adapter (`AdapterOptions`, *optional*): the adapter to train in place of the model.
        weigh (`bool`, *optional*, defaults to `True`): whether weights of rows are computed, where the method has any;
            without, the run is only good to find out whether it could be trained.
    """

    def __init__(
        self,
        method: Method,
        domains: Domains,
        model_args: ModelArguments,
        args: LoopArguments,
        *,
        adapter: AdapterOptions | None = None,
        weigh: bool = True,
    ):
        self.method, self.domains, self.args = method, domains, args
        args.max_steps = same_steps(args, domains)
        args.per_device_train_batch_size *= domains.num_domains if method.needs_target else domains.num_sources
        set_seed(args.seed)
        self.model, self.processor = model_args.load(domains.data)
        if adapter is not None:
            self.model = adapter.add_to(self.model)
        self.trainer = self._trainer(self._weighted() if weigh else domains)

    def _weighted(self) -> Domains:
        """The domains, where the method asks for it with weights by features of the model as it starts."""
        weighting = self.method.weighting
        if weighting is None:
            return self.domains
        cast(Any, self.model).to(self.args.device)
        source, target = self._outputs(self.domains.source_rows), self._outputs(self.domains.target)
        return self.domains.weighted(weighting.of(source, target, seed=self.args.seed))

    def _trainer(self, domains: Domains) -> TransferTrainer:
        objectives = self.method.objectives(num_domains=self.domains.num_domains)
        collate: Callable[..., Any] = self.domains.collate
        if any(isinstance(objective, FixMatch) for objective in objectives):
            collate = TwoViewsCollator(self.processor, collator=collate)
        task = self.domains.data.task
        return TransferTrainer(
            self.model,
            self.args,
            train_dataset=self._rows(domains),
            processing_class=self.processor,
            data_collator=collate if objectives else _WithoutDomain(collate),
            compute_metrics=compute_metrics_for(task, self.domains.data.label_names),
            objectives=objectives,
            eval_dataset=cast(Any, self.domains.validation) if self.args.load_best_model_at_end else None,
            callbacks=self._callbacks(),
        )

    def _callbacks(self) -> list[TrainerCallback]:
        """Those of the method, and the scores without target labels that choose a checkpoint where one is asked to."""
        made: list[TrainerCallback] = []
        if any(part.is_callback for part in self.method.parts):
            made = self.method.callbacks(data=self.domains.target_rows, collator=self.domains.collate)
        return [*made, *self._validation()]

    def _validation(self) -> list[TrainerCallback]:
        if not self.args.load_best_model_at_end:
            self.args.without_validation()  # nothing looks at an evaluation
            return []
        metric = str(self.args.metric_for_best_model).removeprefix("eval_")
        if metric not in (*NAMES, *ORACLE_NAMES):
            self.args.check_metric(self.domains.data.task)  # of the source rows that validate
            return []
        oracle = self.domains.target_test if metric in ORACLE_NAMES else None
        return [
            TargetValidation(
                source=self.domains.validation,
                target=self.domains.target,
                train_source=self.domains.source_train,
                oracle=oracle,
                validators=None if metric in ORACLE_NAMES else [metric],
                data_collator=self.domains.collate,
                batch_size=self.args.per_device_eval_batch_size,
                seed=self.args.seed,
            )
        ]

    def _rows(self, domains: Domains) -> Dataset:
        if self.method.name == TARGET_ORACLE:
            assert domains.target_labelled is not None  # `load_domains` saw to it
            return domains.target_labelled
        return domains.mixed if self.method.needs_target else domains.source

    def train(self) -> dict[str, float]:
        """Train, save the model, and score it on every labelled split; the scores by name, such as target_accuracy."""
        result = self.trainer.train(resume_from_checkpoint=self.args.resume_from_checkpoint)
        self.trainer.save_metrics("train", result.metrics)
        scores: dict[str, float] = {}
        for name, split in self.domains.tests.items():
            scores |= score(self.trainer, split, name)
        self.trainer.save_model()
        keep_facts(self.trainer)
        return scores | _means(scores, MAIN_METRIC[self.domains.data.task])

    def outputs(self) -> dict[str, Outputs]:
        """What the model makes now of the rows that validate, `source`, and of those of the `target`."""
        return {"source": self._outputs(self.domains.validation), "target": self._outputs(self.domains.target)}

    def _outputs(self, rows: Dataset) -> Outputs:
        model: Any = self.model
        return model_outputs(model, rows, self.domains.collate, batch_size=self.args.per_device_eval_batch_size)


@dataclass(frozen=True)
class _WithoutDomain:
    """A model without objectives does not know the column."""

    collate: Callable[..., Any]

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        return self.collate([{name: row[name] for name in row if name != DOMAIN_COLUMN} for row in rows])


def _means(scores: dict[str, float], metric: str) -> dict[str, float]:
    """Where there are several sources or targets, the mean of their main scores."""
    found = {}
    for way in ("source", "target"):
        values = [value for name, value in scores.items() if re.fullmatch(rf"{way}_\d+_{metric}", name)]
        if values:
            found[f"{way}_{metric}"] = sum(values) / len(values)
    return found
