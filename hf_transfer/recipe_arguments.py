"""Options that recipes share: which model, which columns and rows, how inputs are prepared, how long to train."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging
from typing_extensions import Self

from hf_transfer.arguments import TransferArguments
from hf_transfer.data.augmentation import AUGMENTATIONS, augmentation
from hf_transfer.data.loading import TransferData, load_splits
from hf_transfer.json_options import json_object
from hf_transfer.metrics import METRICS
from hf_transfer.models import load_model, new_model


NEW_HEAD_LR = 3e-3
"""Learning rate of a head that starts from random weights."""

logger = logging.get_logger(__name__)

__all__ = ["NEW_HEAD_LR", "DataArguments", "LoopArguments", "ModelArguments", "RunArguments"]


@dataclass(repr=False)
class LoopArguments(TransferArguments):
    """`TransferArguments` with the defaults of the recipes: keep the epoch that validates best, report to nobody."""

    output_dir: str | None = field(default="outputs", metadata={"help": "Folder for the model and all_results.json."})
    num_train_epochs: float = field(default=20.0, metadata={"help": "Passes over the training rows."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Rows of a batch on each device."})
    head_lr: float | None = field(
        default=NEW_HEAD_LR,
        metadata={"help": "Learning rate of the head, which is mostly new; the rest has --learning_rate."},
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to validate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint: no, steps or epoch."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep beside the best."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best checkpoint, not the last."})
    logging_strategy: str = field(
        default="epoch",
        metadata={
            "help": "When to log the terms of the loss: no, epoch, or steps as soon as --logging_steps is given."
        },
    )
    report_to: None | str | list[str] = field(
        default="none", metadata={"help": "Where to report: none, tensorboard, wandb, ..."}
    )
    # Rows are processed when a batch is fetched: the Trainer would drop the columns this needs.
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Leave this off: columns are chosen already."}
    )

    def __post_init__(self):
        if self.eval_strategy != self.save_strategy or self.eval_strategy == "no":
            self.load_best_model_at_end = False  # without a checkpoint of every validation there is no best one
        if self.logging_steps != LoopArguments.logging_steps:
            self.logging_strategy = "steps"
        super().__post_init__()
        # Pinning speeds up copies to an accelerator; without one, torch warns at every epoch.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()

    def at_seed(self, seed: int) -> LoopArguments:
        """The same with another seed and a folder for it."""
        other = copy.copy(self)
        other.seed, other.hub_token = seed, self.hub_token  # which a copy leaves behind
        other.output_dir = str(Path(str(self.output_dir)) / f"seed_{seed}")
        return other

    def for_run(self, folder: str, seed: int) -> Self:
        """The same with a seed and a folder of its own, without the Hub."""
        own = copy.copy(self)
        own.output_dir, own.seed, own.push_to_hub = folder, seed, False
        return own

    def check_metric(self, task: str) -> None:
        """Refuse to choose the best checkpoint by a metric that no evaluation reports."""
        known = ("loss", *METRICS[task])
        chosen = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if chosen not in known:
            raise ValueError(
                f"`--metric_for_best_model {chosen}` is reported by no evaluation for {task}: the run would fail at "
                f"its first checkpoint. Choose from {', '.join(known)}."
            )
        if chosen == "mse":
            self.greater_is_better = False  # the Trainer (transformers 5.23) knows this of names in `loss` only

    def without_validation(self) -> None:
        """Train to the end: there is nothing to choose an epoch by."""
        self.load_best_model_at_end = False
        self.eval_strategy = IntervalStrategy.NO


@dataclass
class RunArguments:
    """Which data, and how often."""

    _argument_group_name = "the recipe"  # a heading of --help

    dataset_name: str = field(metadata={"help": "Hub id, folder or file of the data; embedded:digits for a try."})
    seeds: int = field(
        default=1,
        metadata={"help": "Repeat with this many seeds from --seed on, each with rows and a head of its own."},
    )
    lr_find: bool = field(
        default=False,
        metadata={
            "help": "Set --learning_rate by a range test, and the other rates in proportion; leaves lr_find.png and "
            "lr_find.yaml."
        },
    )

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"`--seeds {self.seeds}` trains nothing. Give 1 or more.")

    def check(self, args: LoopArguments) -> None:
        """Refuse what several runs cannot share."""
        for option in ("push_to_hub", "resume_from_checkpoint"):
            if self.seeds > 1 and getattr(args, option):
                raise ValueError(
                    f"`--{option}` with `--seeds {self.seeds}`: there is a model for each seed, and it is not said "
                    "which is meant. Run the one seed alone, with `--seed` and its folder as `--output_dir`."
                )

    def each_seed(self, args: LoopArguments) -> Iterator[tuple[int, LoopArguments]]:
        """Every seed from that of `args` on, with the loop for its run: where there are several, in its own folder."""
        if self.seeds == 1:
            yield args.seed, args
            return
        for number in range(self.seeds):
            own = args.at_seed(args.seed + number)
            logger.info(f"Seed {own.seed}, {number + 1} of {self.seeds}, in {own.output_dir}")
            yield own.seed, own


@dataclass
class ModelArguments:
    """Which model to start from."""

    _argument_group_name = "the model"

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of a pretrained model; embedded:image, text or audio for a small one."},
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model on the Hub."})
    model_type: str | None = field(
        default=None, metadata={"help": "Instead of a pretrained model: a type such as vit or resnet, from scratch."}
    )
    config_overrides: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": 'With --model_type: changes of its default config, as JSON: {"hidden_size": 64}.'},
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "With --model_type, for text: Hub id or folder of the tokenizer."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code from the model's repository. Only for authors you trust."}
    )

    def __post_init__(self):
        if isinstance(self.config_overrides, str):
            self.config_overrides = json_object(
                "config_overrides",
                self.config_overrides,
                cost="the model would be another one",
                example='{"hidden_size": 64}',
            )

    def load(self, data: TransferData) -> tuple[nn.Module, Any]:
        """The model, with a head for the classes of `data`, and its processor."""
        if self.model_type is not None and self.model_name_or_path is not None:
            raise ValueError(
                f"`--model_type {self.model_type}` with `--model_name_or_path {self.model_name_or_path}`: one starts "
                "from scratch, the other from a checkpoint that would be ignored. Pass one of them."
            )
        if self.model_type is not None:
            overrides = cast("dict[str, Any] | None", self.config_overrides)
            return new_model(self.model_type, data, overrides, tokenizer=self.tokenizer_name)
        if self.model_name_or_path is None:
            raise ValueError(
                "No model is given: there is nothing to transfer from. Pass `--model_name_or_path` (a Hub id, a "
                "folder, or `embedded:image`), or `--model_type` to train from scratch."
            )
        return load_model(
            self.model_name_or_path, data, revision=self.model_revision, trust_remote_code=self.trust_remote_code
        )


@dataclass
class DataArguments:
    """Which columns and rows of a data set, and how its inputs are prepared."""

    _argument_group_name = "the data"

    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str | None = field(default=None, metadata={"help": "Split to validate on; by default found by name."})
    test_split: str | None = field(default=None, metadata={"help": "Split for the final score; by default test."})
    label_column: str | None = field(default=None, metadata={"help": "Label column; by default found by name."})
    input_columns: list[str] | None = field(
        default=None, metadata={"help": "Input column, or two for pairs of texts; by default found by type."}
    )
    validation_fraction: float | None = field(
        default=None, metadata={"help": "Share of the training rows to hold out where there is no validation split."}
    )
    samples_per_class: int | None = field(default=None, metadata={"help": "Train on this many rows of every class."})
    max_samples: int | None = field(default=None, metadata={"help": "Train on at most this many rows."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Score at most this many rows of a split."})
    max_length: int | None = field(default=None, metadata={"help": "Longest text in tokens."})
    max_seconds: float | None = field(
        default=None, metadata={"help": "Longest recording in seconds: of longer ones the first so many are heard."}
    )
    augmentation: str = field(
        default="none",
        metadata={
            "help": "Of training images: light moves and turns a little, strong also crops, mirrors and recolours, "
            "randaugment draws two changes of many for each image.",
            "choices": list(AUGMENTATIONS),
        },
    )

    def __post_init__(self):
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(
                f"`--max_length {self.max_length}` leaves no token of a text. Give a positive number, or leave it out "
                "for as long as the model takes."
            )
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(
                f"`--max_seconds {self.max_seconds}` leaves no sample of a recording. Give a positive number, or "
                "leave it out for the whole of it."
            )

    def augment(self, data: TransferData, processor: Any) -> Callable[[Tensor], Tensor] | None:
        """The augmentation of training images; refused for anything but images."""
        if self.augmentation != "none" and data.task != "image-classification":
            raise ValueError(
                f"`--augmentation {self.augmentation}` with data for {data.task}: it changes images only and would be "
                "ignored. Leave it out."
            )
        return augmentation(self.augmentation, processor)

    def load(self, name_or_path: str, seed: int, **options: Any) -> TransferData:
        """The splits of a data set in one form; `options` go to `load_splits`."""
        data = load_splits(
            name_or_path,
            **{
                "config": self.dataset_config_name,
                "train_split": self.train_split,
                "eval_split": self.eval_split,
                "test_split": self.test_split,
                "label_column": self.label_column,
                "input_columns": self.input_columns,
                "validation_fraction": self.validation_fraction,
                "samples_per_class": self.samples_per_class,
                "max_samples": self.max_samples,
                "max_eval_samples": self.max_eval_samples,
                "max_seconds": self.max_seconds,
                "seed": seed,
                **options,
            },
        )
        if self.max_seconds is not None and data.input_columns != ("audio",):
            raise ValueError(
                f"`--max_seconds {self.max_seconds}` with data for {data.task} that hold no sound: it would be "
                "ignored. Leave it out."
            )
        return data
