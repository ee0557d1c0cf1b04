"""One fine-tuning run of a recipe: data and model from arguments, the trainer, what is done before and after it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import yaml
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, set_seed
from transformers.utils import logging

from hf_transfer.adapter_arguments import AdapterArguments
from hf_transfer.anatomy import anatomy
from hf_transfer.data.loading import TransferData
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.files import whole_file
from hf_transfer.hub import push_result
from hf_transfer.lr_find import lr_find
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.metrics import compute_metrics_for
from hf_transfer.model_card.facts import RunFacts
from hf_transfer.model_card.recipes import changed_options, data_facts, write_run_card
from hf_transfer.recipe import score
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments
from hf_transfer.search import SearchResult, search, search_space
from hf_transfer.trainer import TransferTrainer
from hf_transfer.weights import greedy_soup, snapshot, transfer_parameters, uniform_soup, wise_ft


logger = logging.get_logger(__name__)

HELD_OUT = 0.2
"""Share of the training rows that is held out where something is chosen by validation and there is no such split."""

__all__ = ["HELD_OUT", "FineTuning", "Inputs", "find_settings"]


@dataclass(frozen=True)
class Inputs:
    """A data set as a model takes it: the training rows as trained on and without augmentation, and the splits."""

    train: Dataset
    plain: Dataset
    splits: dict[str, Dataset]
    collate: Any


class FineTuning:
    """
    Fine-tuning of one model on one data set, as the arguments of a recipe describe it.

    Args:
        dataset (`str`): Hub id, folder, file or embedded data set.
        methods (`MethodArguments`): how to transfer.
        model_args (`ModelArguments`): which model.
        data_args (`DataArguments`): which rows, and how they are prepared.
        args (`LoopArguments`): the loop. Its seed draws the rows, the new head and the order.
        data_seed (`int`, *optional*): draws the rows and the new head instead, so that runs differ in order alone.
        validate (`bool`, *optional*, defaults to `False`): hold validation rows out even if no method asks for them.
        adapter (`AdapterArguments`, *optional*): the adapter to train in place of the whole model.

    Raises:
        ValueError: if options contradict each other or the data, before anything is trained.
    """

    def __init__(
        self,
        dataset: str,
        methods: MethodArguments,
        model_args: ModelArguments,
        data_args: DataArguments,
        args: LoopArguments,
        *,
        data_seed: int | None = None,
        validate: bool = False,
        adapter: AdapterArguments | None = None,
    ):
        self.methods, self.model_args, self.args = methods, model_args, args
        seed = args.seed if data_seed is None else data_seed
        set_seed(seed)
        with args.main_process_first(desc="loading data"):
            data = data_args.load(dataset, seed)
            if data.eval is None and (validate or methods.needs_validation):
                data = data.with_validation(HELD_OUT, seed=seed)
                logger.info(
                    f"{len(data.eval or ())} training rows ({HELD_OUT:.0%} of each class) are held out for "
                    f"validation, {len(data.train)} are left."
                )
            self.data: TransferData = data
            if data.eval is None:
                args.without_validation()
            args.check_metric(data.task)
            methods.check(model_args, args)
            if adapter is None:
                self.model, self.processor = model_args.load(data)
            else:
                adapter.check(methods, model_args, args)
                self.model, self.processor = adapter.load(model_args, data)
            self.inputs = self._inputs(data, data_args)
        methods.initialise(self.model, self.plain_batches, args, seed=seed)
        if adapter is not None:
            self.model = adapter.put_on(self.model, methods, model_args)
        self._trainer: TransferTrainer | None = None
        self._dataset = data_facts(dataset, self.data, config=data_args.dataset_config_name)
        self._told: list[str] = []
        """Sentences for the model card on what was done with the weights beside training them."""
        set_seed(args.seed)

    def _inputs(self, data: TransferData, data_args: DataArguments) -> Inputs:
        augment = data_args.augment(data, self.processor)
        ready = partial(prepare, processor=self.processor, max_length=data_args.max_length)
        plain = ready(data.train)
        splits = {"eval": data.eval, "test": data.test}
        return Inputs(
            train=plain if augment is None else ready(data.train, augment=augment),
            plain=plain,
            splits={name: ready(split) for name, split in splits.items() if split is not None},
            collate=collator_for(self.processor, tokens=data.task == "token-classification"),
        )

    def plain_batches(self) -> Iterable[Mapping[str, Any]]:
        """Batches of the training rows in their order, without augmentation."""
        rows = cast(Any, self.inputs.plain)
        return DataLoader(rows, self.args.per_device_eval_batch_size, collate_fn=self.inputs.collate)

    def trainer(self, model_init: Callable[[], Any] | None = None) -> TransferTrainer:
        """A trainer of the run's model, or of those that `model_init` makes."""
        return TransferTrainer(
            self.model if model_init is None else None,
            self.args,
            train_dataset=self.inputs.train,
            eval_dataset=self.inputs.splits.get("eval"),
            processing_class=self.processor,
            data_collator=self.inputs.collate,
            compute_metrics=compute_metrics_for(self.data.task, self.data.label_names),
            objectives=self.methods.objectives(self.model_args),
            callbacks=self.methods.callbacks(),
            model_init=model_init,
        )

    def find_rate(self, trainer: TransferTrainer) -> None:
        """Set the learning rates by a range test, in proportion; leave its curve and them beside the model."""
        result = lr_find(trainer)
        settings = result.settings(self.args)
        folder = Path(str(self.args.output_dir))
        if trainer.is_world_process_zero():
            result.plot(folder / "lr_find.png")
            with whole_file(folder / "lr_find.yaml") as unfinished:
                unfinished.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        if settings:
            logger.info(f"The range test ({folder / 'lr_find.png'}) sets {_told(settings)}")
        else:
            logger.warning(f"The loss fell at no rate of the range test ({folder / 'lr_find.png'}): the rates stay.")
        for name, value in settings.items():
            setattr(self.args, name, value)

    def run(self, *, find_rate: bool = False) -> dict[str, float]:
        """Train, choose the mixture of weights if asked to, score every split, save and push the model."""
        self._trainer = trainer = self.trainer()
        if find_rate:
            self.find_rate(trainer)
        start = snapshot(self.model) if self.methods.wise_ft else None
        result = trainer.train(resume_from_checkpoint=self.args.resume_from_checkpoint)
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.remove_callback(EarlyStoppingCallback)  # it would look for its metric in the final scores
        if start is not None:
            chosen = wise_ft(
                self.model, start, lambda: self.validate(trainer), greater_is_better=self.greater_is_better
            )
            tried = ", ".join(f"{alpha:.0%} {value:.4f}" for alpha, value in chosen.scores.items())
            logger.info(
                f"WiSE-FT mixes {chosen.alpha:.0%} of the fine-tuned weights with the start; validation {self.metric} "
                f"of each share: {tried}"
            )
            self._told = [f"WiSE-FT: {chosen.alpha:.0%} of the fine-tuned weights are mixed with those of the start."]
        scores = self._finish(trainer)
        if self.args.push_to_hub:
            self._push(trainer)
        return scores

    def _push(self, trainer: TransferTrainer) -> None:
        push_result(trainer, tasks=self.data.task)

    def _finish(self, trainer: TransferTrainer) -> dict[str, float]:
        scores: dict[str, float] = {}
        for name, split in self.inputs.splits.items():
            scores |= score(trainer, split, name)
        trainer.facts = self._facts(scores)
        trainer.save_model(_internal_call=True)  # without a push
        write_run_card(trainer)
        return scores

    def _facts(self, scores: Mapping[str, float]) -> RunFacts:
        facts = RunFacts(task=self.data.task, inputs=list(self.data.input_columns), data=[self._dataset])
        facts.strategy, facts.hyperparameters = self._told, changed_options(self.methods)
        facts.add_scores(scores)
        return facts

    def soup(self, folders: Sequence[str], kind: str, output_dir: str) -> dict[str, float]:
        """
        Average models that differ from this run's only by their training, score the result and save it.

        Args:
            folders (`Sequence[str]`): where the members were saved.
            kind (`str`): `uniform` for all, `greedy` for those that help on the validation rows.
            output_dir (`str`): where the soup is saved.
        """
        trainer = self._trainer or self.trainer()
        trainer.accelerator.wait_for_everyone()  # the main process writes the last member
        if kind == "greedy":
            result = greedy_soup(
                self.model, folders, lambda: self.validate(trainer), greater_is_better=self.greater_is_better
            )
            members = [folders[number] for number in result.members]
            alone = ", ".join(f"{value:.4f}" for value in result.scores)
            logger.info(
                f"The greedy soup takes {len(members)} of {len(folders)} models, validation {self.metric} "
                f"{result.score:.4f} (each alone {alone}): {', '.join(members)}"
            )
        else:
            logger.info(f"The uniform soup is the mean of {len(folders)} models: {', '.join(folders)}")
            transfer_parameters(self.model, uniform_soup(folders), head=True)
        trainer.remove_callback(EarlyStoppingCallback)
        self._told = [f"Its weights are the {kind} average of {len(folders)} such runs."]
        trainer.args.output_dir = output_dir
        if trainer.args.should_save:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        return self._finish(trainer)

    @property
    def metric(self) -> str:
        """What weights and settings are compared by: as epochs, by `metric_for_best_model`."""
        return (self.args.metric_for_best_model or "loss").removeprefix("eval_")

    def validate(self, trainer: Trainer) -> float:
        """The `metric` of a trainer's model as it is now on the validation split."""
        trainer.args.dataloader_drop_last = False
        # not `evaluate`: that logs every score as if it were one of the training
        scores = trainer.predict(cast(Any, self.inputs.splits["eval"]), metric_key_prefix="eval").metrics or {}
        return scores[f"eval_{self.metric}"]

    @property
    def greater_is_better(self) -> bool:
        """Whether more of `metric` is better."""
        # the arguments know the direction of a metric that was named; the loss, where none was, is to fall
        return bool(self.args.metric_for_best_model and self.args.greater_is_better)


def find_settings(
    dataset: str,
    methods: MethodArguments,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: LoopArguments,
    *,
    trials: int,
) -> SearchResult:
    """
    Search rates, decay, epochs, stages and the weights of the methods that are on, and put the best into `methods` and
    `args`. Chosen on validation rows alone; written to `best.yaml` in the output folder, for `--config`.

    Args:
        dataset, methods, model_args, data_args, args: as for [`FineTuning`].
        trials (`int`): settings to try.
    """
    run = FineTuning(dataset, methods, model_args, data_args, copy.copy(args), validate=True)
    weighted = methods.weighted(model_args)
    space = partial(search_space, weights={name: (weight / 10, weight * 10) for name, weight in weighted.values()})
    space = partial(space, **_left_alone(run))
    trainer = run.trainer(model_init=lambda: copy.deepcopy(run.model))
    logger.info(f"Searching {trials} settings, chosen by the validation {run.metric}.")
    result = search(
        trainer, trials, space=space, metric=run.metric, greater_is_better=run.greater_is_better, seed=args.seed
    )
    option_of = {name: option for option, (name, _) in weighted.items()}
    settings = {option_of.get(name, name): value for name, value in result.settings.items()}
    for option, value in settings.items():
        setattr(methods if hasattr(methods, option) else args, option, value)
    result = replace(result, settings=settings)
    if trainer.is_world_process_zero():
        result.to_yaml(f"{args.output_dir}/best.yaml")
    logger.info(
        f"The best of {trials} settings (validation {result.metric} {result.score:.4f}, kept in "
        f"{args.output_dir}/best.yaml for --config): {_told(settings)}"
    )
    return result


def _left_alone(run: FineTuning) -> dict[str, Any]:
    """The part of the search space that follows from what was asked for, and from the model."""
    args, methods = run.args, run.methods
    most = max(1, round(args.num_train_epochs))
    planned = methods.freeze != "none" or methods.schedule is not None
    blocks = len(anatomy(run.model).blocks)
    return {
        "num_train_epochs": None if args.max_steps > 0 else (max(1, most // 4), most),
        "stages": None if planned else [stages for stages in (0, 1, 2, 4) if stages <= blocks + 1],
        **({} if args.lr_schedule is None else {"lr_schedule": None}),
    }


def _told(settings: Mapping[str, Any]) -> str:
    """Settings as they would stand on a command line."""
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in settings.items()}
    return " ".join(f"--{name} {value}" for name, value in shown.items() if value is not None)
