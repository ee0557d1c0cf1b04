"""`TransferTrainer`: a `Trainer` whose model carries objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import TrainOutput
from typing_extensions import Unpack

from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.arguments import TransferArguments
from hf_transfer.attach import Attachment, attach
from hf_transfer.callbacks import adapt_batch_norm, batch_norm, freezer, overrides
from hf_transfer.callbacks.average_teacher import average_teacher_callbacks
from hf_transfer.callbacks.domain_health import DomainHealth
from hf_transfer.callbacks.progress import TrackProgress
from hf_transfer.callbacks.rank_allocation import (
    load_allocation,
    rank_allocation_callbacks,
    save_allocation,
    whole_matrices,
)
from hf_transfer.callbacks.target_validation import TargetValidation
from hf_transfer.callbacks.unfreezing import UnfreezingSchedule
from hf_transfer.checkpoint import (
    check_checkpoint,
    load_objectives,
    load_renamed_weights,
    load_statistics,
    save_objectives,
)
from hf_transfer.data.sampling import SetSamplerEpoch, check_whole_batches, domain_sampler
from hf_transfer.frozen_prefix.rows import ROW
from hf_transfer.frozen_prefix.support import PrefixSupport
from hf_transfer.functional.task_loss import SAMPLE_WEIGHT
from hf_transfer.hub.trainer import PushingTrainer
from hf_transfer.lr_schedules import check_phases
from hf_transfer.model_card.facts import RunFacts
from hf_transfer.model_card.trainer_card import create_card
from hf_transfer.objective import Objective, Objectives
from hf_transfer.optim import learning_rates, split_groups
from hf_transfer.sample_weights import has_sample_weight
from hf_transfer.series_models import BESIDES, TargetCollator, series_model


if TYPE_CHECKING:
    import optuna

    from hf_transfer.trainer_kwargs import TrainerKwargs


class TransferTrainer(PushingTrainer):
    """
    A `Trainer` that trains a model with objectives, a learning rate for each part and mixed domains.

    Args:
        model (`PreTrainedModel` or `nn.Module`, *optional*):
            Any classifier of `transformers`, also under PEFT; or give `model_init`.
        args (`TransferArguments` or `TrainingArguments`, *optional*):
            Options of the loop.
        objectives (`Iterable[Objective]`, *optional*):
            Terms added to the task loss. Without any, the trainer is the stock one but for the scaling below.
        **kwargs:
            Everything else `Trainer` takes, unchanged.

    Each term is logged as `loss_<name>` beside `loss_task`, unweighted, averaged over accumulation steps and ranks.
    Every term is a mean over its micro-batch, divided once by the number of accumulation steps: with models whose loss
    ignores `num_items_in_batch` the stock `Trainer` multiplies the gradient by that number instead.

    A float column `sample_weight` of the training data weighs the rows of the task loss (see [`attach`]), with
    objectives or without.

    Raises:
        ValueError: if objectives meet label smoothing or `compute_loss_func`, which act outside the model, or
            `nn.DataParallel`; and whatever `attach` raises.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        objectives: Iterable[Objective] = (),
        **kwargs: Unpack[TrainerKwargs],
    ):
        self._objectives = list(objectives)
        self.facts = RunFacts()
        """What the model card is to say beside what can be read off the trainer: data, scores, baselines, notes."""
        self._weighted = has_sample_weight(kwargs.get("train_dataset"))
        self.attachment: Attachment | None = None
        args = TransferArguments(output_dir="tmp_trainer") if args is None else args
        self._refuse_outside_losses(args, kwargs.get("compute_loss_func"))
        callbacks = list(kwargs.get("callbacks") or ())
        callbacks += average_teacher_callbacks(self._objectives, callbacks)
        self._prefix: PrefixSupport | None = None
        if isinstance(args, TransferArguments) and args.cache_frozen_prefix:
            self._prefix = PrefixSupport(self, args, callbacks, self._objectives)
            callbacks.append(self._prefix.callback)
        if args.ddp_find_unused_parameters is None and any(isinstance(c, UnfreezingSchedule) for c in callbacks):
            # Frozen parameters take no part in the backward. With activation checkpointing the Trainer's own default
            # is False, and no callback is called in time to change it.
            args.ddp_find_unused_parameters = True
        super().__init__(model, args, **{**kwargs, "callbacks": [TrackProgress(), SetSamplerEpoch(), *callbacks]})
        # First, so that what averages the weights sees them masked.
        callbacks = self.callback_handler.callbacks
        callbacks[:0] = rank_allocation_callbacks(cast(nn.Module, self.model), callbacks)
        self._introduce_callbacks()
        self._series = series_model(cast(nn.Module, self.model))
        if self._series is not None and self._series.target is not None:
            if self.args.label_names is None:
                self.label_names = [self._series.target]
            self.data_collator = TargetCollator(self.data_collator, self._series.target)
        # Every term is a micro-batch mean, to be divided once by the accumulation steps, in `training_step`.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        if model is not None:
            self._attach(model)
        if self._prefix is not None:
            self._prefix.check()

    def _introduce_callbacks(self) -> None:
        """Let loggers see what callbacks measure; in a stock `Trainer` they stand before those and see less."""
        self.callback_handler.callbacks.sort(key=lambda callback: not isinstance(callback, TargetValidation))
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, DomainHealth) and callback.log is None:
                callback.log = self.log

    def _refuse_outside_losses(self, args: TrainingArguments, compute_loss_func: Any) -> None:
        if not self._objectives and not self._weighted:
            return
        what = "objectives" if self._objectives else f"a column `{SAMPLE_WEIGHT}`"
        if args.label_smoothing_factor:
            raise ValueError(
                f"`label_smoothing_factor={args.label_smoothing_factor}` with {what}: the Trainer then computes "
                "the loss outside the model and drops every term and weight inside it. Leave it at 0.0 and add "
                f"`LabelSmoothing(smoothing={args.label_smoothing_factor})` to the objectives."
            )
        if compute_loss_func is not None:
            raise ValueError(
                f"`compute_loss_func` with {what}: it replaces the model's own loss, which carries the terms. "
                "Write the function as an `Objective` and pass it in `objectives`."
            )
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs in one process: `nn.DataParallel` copies the model each step and the objectives' "
                "terms and the weights of rows are lost. Start one process per GPU with `accelerate launch`, or show "
                "one by CUDA_VISIBLE_DEVICES."
            )

    @property
    def objectives(self) -> Objectives:
        """The attached objectives by name; prints as the total loss."""
        return self.attachment.objectives if self.attachment is not None else Objectives()

    def _attach(self, model: nn.Module) -> None:
        if self._objectives or self._weighted:
            self.attachment = attach(model, self._objectives)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: optuna.Trial | dict[str, Any] | None = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; whatever ends the run, nothing of the model is left frozen or changed by a callback."""
        if isinstance(resume_from_checkpoint, str):
            check_checkpoint(Path(resume_from_checkpoint))
        if self.model_init is None:
            self._fit_objectives()
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            if self._prefix is not None:
                self._prefix.release(cast(nn.Module, self.model))
            for leftover in (adapt_batch_norm, batch_norm, freezer, overrides):
                leftover.release(cast(nn.Module, self.model))

    def call_model_init(self, trial: optuna.Trial | dict[str, Any] | None = None) -> nn.Module:
        """A fresh model, with the objectives built anew for it."""
        model = super().call_model_init(trial)
        self._attach(model)
        if getattr(self, "train_dataset", None) is not None:  # not yet when the Trainer is being built
            self._fit_objectives()
        return model

    def _fit_objectives(self) -> None:
        """Let the objectives that learn from the training data do so; a resumed run loads their state over it."""
        objectives = self.objectives.by_name.values()
        learners = [objective for objective in objectives if objective.learns_from_data]
        inspectors = [objective for objective in objectives if objective.inspects_data]
        if not hasattr(self.train_dataset, "__len__"):
            inspectors = []  # a stream is not begun for a look
        if not learners and not inspectors:
            return
        assert self.attachment is not None
        with torch.random.fork_rng():  # the order of the batches does not depend on what was fitted
            for objective in inspectors:
                objective.inspect(self.attachment.model, self._plain_batches())
            for objective in learners:
                objective.fit(self.attachment.model, self._plain_batches())

    def _plain_batches(self) -> DataLoader:
        """The training set in its order, whole on every rank."""
        dataset: Any = self.train_dataset
        if not hasattr(dataset, "__len__"):
            raise ValueError(
                f"{type(dataset).__name__} is a stream, and an objective must see all of the training data before the "
                "first step: a stream has no end to wait for. Give a data set of rows, or call `fit` of the objective "
                "yourself on a sample and set its `learns_from_data` to False."
            )
        collate = self.data_collator
        if self.args.remove_unused_columns:
            collate = self._get_collator_with_removed_columns(collate, description="objectives")
        return DataLoader(dataset, batch_size=self.args.per_device_train_batch_size, collate_fn=collate)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = self._signature_columns or []
        extra = self.objectives.columns() | ({ROW} if self._prefix is not None else set())
        extra |= {SAMPLE_WEIGHT} if self.attachment is not None else set()
        self._signature_columns = [*columns, *sorted(extra - set(columns))]

    def _get_dataloader(
        self,
        dataset: Dataset,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Dataset], Sampler] | None = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> DataLoader:
        if is_training and self._prefix is not None:
            return self._prefix.dataloader(
                super()._get_dataloader, dataset, description, batch_size, sampler_fn, dataloader_key
            )
        return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, dataloader_key)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        # Asked of the data set as given: unused columns, `domain` among them, may be gone from `train_dataset`.
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        batch_size, ranks = self.args.per_device_train_batch_size, self.args.world_size
        for objective in self.objectives.by_name.values():
            sampler = objective.sampler(self.train_dataset, batch_size=batch_size, ranks=ranks, seed=seed)
            if sampler is not None:
                check_whole_batches(self.args, type(objective).__name__)
                return sampler
        return domain_sampler(self.train_dataset, seed) or super()._get_train_sampler(train_dataset)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The stock optimizer, its groups split by the learning rates of the arguments."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh and isinstance(self.args, TransferArguments) and self.args.rates_by_part:
            model = self.model if model is None else model
            rates = learning_rates(model, self._anatomy(model), **self.args.rates_by_part)
            split_groups(optimizer, model.named_parameters(), rates)
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The stock scheduler, or the curve that `TransferArguments.lr_schedule` names."""
        layout = self.args.lr_layout if isinstance(self.args, TransferArguments) else None
        if layout is not None and self.lr_scheduler is None:
            check_phases(layout, self.callback_handler.callbacks)
            scaled = cast(torch.optim.Optimizer, self.optimizer if optimizer is None else optimizer)
            self.lr_scheduler = layout(scaled, num_training_steps)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """The stock step; of what a model of series returns the prediction alone is kept."""
        if self._series is not None and ignore_keys is None:
            ignore_keys = list(BESIDES)
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def _anatomy(self, model: nn.Module) -> Anatomy:
        return self.attachment.anatomy if self.attachment is not None else anatomy(model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the mean of every term since the last training log."""
        if "loss" in logs and self.attachment is not None:
            names, means = self.attachment.drain()
            if means is not None:
                means = cast(torch.Tensor, self.accelerator.reduce(means, reduction="mean"))
                logs.update(zip(names, means.tolist(), strict=True))
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; in a checkpoint, the state of the objectives beside it."""
        super().save_model(output_dir, _internal_call)
        # A push calls this internally too, but names no folder. FSDP writes the objectives into its own checkpoint.
        in_checkpoint = _internal_call and self.args.should_save and not self.is_fsdp_enabled
        if in_checkpoint and output_dir is not None:
            save_objectives(self.objectives, Path(output_dir))
            save_allocation(self.model, Path(output_dir))

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write README.md into the output folder, filled from the run and from `facts`; see [`write_card`]."""
        create_card(
            self, language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with whole_matrices(self.model if model is None else model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        if not self.is_fsdp_enabled:
            self._load_beside(cast(nn.Module, self.model if model is None else model), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        with whole_matrices(self.model):
            super()._load_best_model()
        if not self.is_fsdp_enabled and self.state.best_model_checkpoint is not None:
            self._load_beside(cast(nn.Module, self.model), Path(self.state.best_model_checkpoint))

    def _load_beside(self, model: nn.Module, folder: Path) -> None:
        """What the stock `Trainer` leaves out of a checkpoint."""
        load_renamed_weights(model, folder)
        load_statistics(model, folder)
        load_objectives(self.objectives, folder)
        load_allocation(model, folder)
