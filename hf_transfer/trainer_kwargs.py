"""Types of the keyword arguments that trainers hand on to `Trainer`, so that editors complete and check them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from transformers import DataCollator, EvalPrediction, PreTrainedModel, TrainerCallback

from hf_transfer.objective import Objective


if TYPE_CHECKING:
    import datasets


Data: TypeAlias = "Dataset | IterableDataset | datasets.Dataset | datasets.IterableDataset"


class TrainerKwargs(TypedDict, total=False):
    """What `Trainer` takes besides `model` and `args`; its documentation describes each."""

    data_collator: DataCollator | None
    train_dataset: Data | None
    eval_dataset: Data | dict[str, Data] | None
    processing_class: Any
    model_init: Callable[..., PreTrainedModel] | None
    compute_loss_func: Callable | None
    compute_metrics: Callable[[EvalPrediction], dict] | None
    callbacks: list[TrainerCallback] | None
    optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None]
    optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None
    preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None


class TransferTrainerKwargs(TrainerKwargs, total=False):
    """What `TransferTrainer` takes besides `model` and `args`."""

    objectives: Iterable[Objective]
