"""`FeatureExtractionTrainer`: a `Trainer` of the head on features that are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import TrainOutput
from typing_extensions import Unpack

from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.callbacks.unfreezing import UnfreezingSchedule
from hf_transfer.features.extraction.extract import extract_features
from hf_transfer.features.extraction.kwargs import ExtractionKwargs, checked, for_evaluation
from hf_transfer.features.training.feature_batches import FEATURES, FeatureCollator, FeatureTable
from hf_transfer.features.training.feature_check import check_head, check_objectives, check_width
from hf_transfer.features.training.feature_forward import FeatureForward
from hf_transfer.functional.task_loss import SAMPLE_WEIGHT
from hf_transfer.trainer import TransferTrainer
from hf_transfer.trainer_kwargs import TransferTrainerKwargs


if TYPE_CHECKING:
    import datasets
    import optuna

__all__ = ["FeatureExtractionTrainer"]


class FeatureExtractionTrainer(TransferTrainer):
    """
    Train the head of a model on features that are computed once and cached, with everything a `Trainer` can do.

    The data sets are replaced by those of [`extract_features`]; a step then runs the head alone. `model` is the whole
    ordinary model throughout: it is what checkpoints hold, what is saved, pushed and loaded as the best. Its `forward`
    also takes `features` while the trainer has it, and does what it always did for any other call, so that
    `evaluate` and `predict` also take data sets with the model's own inputs.

    Only the head trains, during `train()`; what was trainable before is so again afterwards. That includes no neck:
    RoBERTa's dense layer or BERT's pooler, if the checkpoint had none, stay as random as they were initialised, and
    nothing in a model tells whether they were. Train such a model with `FreezeBackbone(train=["head", "neck"])` first.

    Features are taken in evaluation mode. Where the model drops out part of the features before its head, as BERT
    does, that dropout takes no part: the run is that of [`FreezeBackbone`] with such dropout at 0.

    Args:
        model (`PreTrainedModel` or `nn.Module`, *optional*):
            Any classifier of `transformers`, also under PEFT with its head in `modules_to_save`; or give `model_init`,
            whose every model has its features extracted, which the cache answers where only the head differs.
        args (`TransferArguments` or `TrainingArguments`, *optional*):
            Options of the loop.
        extraction (`dict`, *optional*):
            Options for [`extract_features`], such as `{"max_length": 128, "dtype": "float16"}`. `views` and `augment`
            count for the training data only. `data_collator` of the trainer collates what holds no features.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.
        **kwargs:
            As for [`TransferTrainer`]. `train_dataset` and `eval_dataset` hold raw inputs (with `processing_class`),
            the model's inputs, or `features` already.

    Objectives see the features as they would in training: [`LabelSmoothing`], [`FocalLoss`] and [`ClassBalanced`] do
    what they always do. A term that only moves the backbone, such as [`DomainAdversarial`], leaves the head as it is.

    Raises:
        ValueError: if what follows the head changes the logits; if the head is frozen or would not be saved; if the
            features are of another width; if the training data has no labels; with a freezing schedule or
            `cache_frozen_prefix`; if an objective needs the inputs; if an option would change what is extracted; with
            several GPUs in one process. And whatever [`extract_features`] and [`TransferTrainer`] raise.

    Relations:
        [`fit_probe`] finds the head of the lowest regularised loss in closed form or by a second-order method, and
        `fold_into` puts it into the model: faster still, without objectives, metrics and callbacks.
        [`FreezeBackbone`] computes the features anew in every epoch, with fresh augmentation and dropout.

    Example:
        >>> import datasets
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> rows = datasets.Dataset.from_dict({"features": [[float(i)] * 8 for i in range(8)], "labels": [0, 1] * 4})
        >>> args = TrainingArguments("out", use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no")
        >>> args.dataloader_pin_memory = False
        >>> model = BertForSequenceClassification(config)
        >>> trainer = FeatureExtractionTrainer(model, args, train_dataset=rows)
        >>> trainer.model is model, len(trainer.get_train_dataloader())
        (True, 1)
        >>> model(features=torch.zeros(2, 8), labels=torch.tensor([0, 1])).logits.shape
        torch.Size([2, 2])
        >>> trainer.restore()
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        extraction: ExtractionKwargs | None = None,
        head: str | None = None,
        **kwargs: Unpack[TransferTrainerKwargs],
    ):
        self._extraction = checked(extraction)
        self._head = head
        self._given = dict(kwargs)
        self._forward: FeatureForward | None = None
        self._frozen: list[nn.Parameter] = []
        self._datasets: tuple[Any, Any] = None, None
        _refuse_schedules(args, kwargs.get("callbacks") or ())
        super().__init__(model, args, **kwargs)
        self.train_dataset, self.eval_dataset = self._datasets
        self.data_collator = FeatureCollator(cast(Any, self.data_collator))

    def _attach(self, model: nn.Module) -> None:
        # before the objectives are in the model, whose parameters would be part of what the cache is keyed by
        check_objectives(self._objectives)
        _refuse_data_parallel(self.args)
        parts = self._anatomy(model)
        _refuse_frozen_head(model, parts)
        if torch.device(self.args.device).type != "cpu" and getattr(model, "hf_device_map", None) is None:
            model.to(self.args.device)  # of `model_init`; the Trainer moves it only when training begins
        with torch.random.fork_rng(devices=[]):  # a run is the same whether its features were cached or not
            train, evaluation = self._given.get("train_dataset"), self._given.get("eval_dataset")
            if train is not None:
                train = self._features_of(train, model, parts, training=True)
                _require_labels(train)
            if isinstance(evaluation, dict):
                evaluation = {name: self._features_of(data, model, parts) for name, data in evaluation.items()}
            elif evaluation is not None:
                evaluation = self._features_of(evaluation, model, parts)
        self._datasets = train, evaluation
        if getattr(self, "train_dataset", None) is not None:  # a model of `model_init`, after the first
            self.train_dataset, self.eval_dataset = train, evaluation
        self._forward = FeatureForward(model, parts.head).put_on()
        super()._attach(model)

    def _features_of(self, data: Any, model: nn.Module, parts: Anatomy, *, training: bool = False) -> datasets.Dataset:
        """The feature data set of `data`, which may be one."""
        if FEATURES in (getattr(data, "column_names", None) or ()):
            check_width(data, parts)
            return data
        options: dict[str, Any] = {**self._extraction} if training else for_evaluation(self._extraction)
        wanted = {"domain", SAMPLE_WEIGHT, *options.pop("columns", ())}
        wanted |= {name for term in self._objectives for name in term.columns}
        present = getattr(data, "column_names", None) or ()
        columns = [name for name in present if name in wanted]
        processor = self._given.get("processing_class")

        def extracted(rows: Any, **options: Any) -> datasets.Dataset:
            return extract_features(model, rows, processor, columns=columns, head=self._head, **options)

        features = plain = extracted(data, **options)
        first = data.select(range(min(4, len(data))))
        if options.get("views", 1) > 1:
            plain = extracted(first, **{**options, "views": 1, "augment": None})
        check_head(
            model,
            parts,
            plain.select(range(len(first))),
            first,
            processor,
            max_length=options.get("max_length"),
            collator=options.get("data_collator"),
            exact=options.get("dtype", "float32") == "float32",
        )
        return features

    def _anatomy(self, model: nn.Module) -> Anatomy:
        return self.attachment.anatomy if self.attachment is not None else anatomy(model, head=self._head)

    def call_model_init(self, trial: optuna.Trial | dict[str, Any] | None = None) -> nn.Module:
        """A fresh model with the features of its own backbone."""
        self.attachment = None
        model = super().call_model_init(trial)
        self._freeze(model)
        return model

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: optuna.Trial | dict[str, Any] | None = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train the head; the rest of the model is frozen meanwhile, and only then."""
        self._freeze(cast(nn.Module, self.model))
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self._thaw()

    def _freeze(self, model: nn.Module) -> None:
        # Before the optimizer and DDP see the model: nothing here ever thaws, so neither need know the backbone.
        self._thaw()
        part_of = self._anatomy(model).part_of()
        self._frozen = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and part_of.get(name, "head") != "head"
        ]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
            parameter.grad = None

    def _thaw(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []

    def restore(self) -> None:
        """Leave the model as it was found but for its trained head. Restoring twice is harmless."""
        self._thaw()
        if self._forward is not None:
            self._forward.take_off()

    def __enter__(self) -> FeatureExtractionTrainer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if FEATURES not in (columns := self._signature_columns or []):  # PEFT shows the forward of the inner model
            self._signature_columns = [*columns, FEATURES]

    def _remove_unused_columns(self, dataset: datasets.Dataset, description: str | None = None) -> Any:
        kept = super()._remove_unused_columns(dataset, description)
        return FeatureTable(kept, kept.column_names) if FEATURES in kept.column_names else kept

    def _plain_batches(self) -> DataLoader:
        dataset = self._remove_unused_columns(cast(Any, self.train_dataset), "objectives")
        size = self.args.per_device_train_batch_size
        return DataLoader(dataset, batch_size=size, collate_fn=cast(Any, self.data_collator))

    def floating_point_ops(self, inputs: dict[str, torch.Tensor | Any]) -> int:
        """Those of the head for cached features, by the Trainer's rule: six a row (token) and weight."""
        features = inputs.get(FEATURES)
        if features is None:
            return super().floating_point_ops(inputs)
        model = cast(nn.Module, self.model)
        head = model.get_submodule(cast(FeatureForward, self._forward).head)
        weights = sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad)
        return 6 * (features.numel() // features.shape[-1]) * weights


def _refuse_schedules(args: TrainingArguments | None, callbacks: Sequence[Any]) -> None:
    if getattr(args, "cache_frozen_prefix", False):
        raise ValueError(
            "`cache_frozen_prefix` with cached features: no block runs in a step, so there is none to start at. Leave "
            "it out; it is for `TransferTrainer` with a schedule that trains some of the blocks."
        )
    for callback in callbacks:
        if isinstance(callback, UnfreezingSchedule):
            raise ValueError(
                f"`{type(callback).__name__}` with cached features: they were computed once, so the head trains and "
                "nothing else can. Leave the callback out, or use `TransferTrainer`, which computes them anew."
            )


def _refuse_data_parallel(args: TrainingArguments) -> None:
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process: the copies that `nn.DataParallel` makes each step would all run the "
            "head of the first. Start one process per GPU with `accelerate launch`, or show one by "
            "CUDA_VISIBLE_DEVICES."
        )


def _refuse_frozen_head(model: nn.Module, parts: Anatomy) -> None:
    names = set(parts.parts()["head"])
    if not any(parameter.requires_grad for name, parameter in model.named_parameters() if name in names):
        raise ValueError(
            f"No parameter of the head `{parts.head}` is trainable: there is nothing to train on features, and what "
            "adapters freeze they do not save. Give PEFT the head, "
            f'`modules_to_save=["{parts.head.rpartition(".")[2]}"]`, or call `requires_grad_(True)` on it.'
        )


def _require_labels(train: datasets.Dataset) -> None:
    if "labels" not in train.column_names:
        raise ValueError(
            f"The features to train on come with {', '.join(train.column_names)} and no `labels`: there is no loss. "
            "Give a training set with a column `label` or `labels`."
        )
