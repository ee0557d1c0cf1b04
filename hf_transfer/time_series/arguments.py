"""The options of `recipes/time_series.py`: which series, which forecaster, how little data, which strategies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers.utils import logging

from hf_transfer.json_options import json_object
from hf_transfer.option_checks import RESUME_HELP, check_least, check_positive
from hf_transfer.recipe_arguments import LoopArguments
from hf_transfer.time_series.configuration import KINDS, SIZES
from hf_transfer.time_series.strategies import STRATEGIES, check_strategies


CLASSIFICATION = "classification"
FORECASTING = "forecasting"

LONGEST_HORIZON = 720
"""Steps of the longest horizon that is usual in the literature."""

EPOCHS = 20.0
"""Passes over the windows where no number of steps is given."""

logger = logging.get_logger(__name__)

__all__ = ["CLASSIFICATION", "FORECASTING", "ForecasterArguments", "SeriesArguments", "SeriesLoopArguments"]


@dataclass
class SeriesArguments:
    """Which series are learned from, which one is forecast, with how much of it, and by which strategies."""

    _argument_group_name = "the recipe"  # a heading of --help

    target_series: str = field(
        metadata={
            "help": "The series to forecast: a CSV or Parquet file, a Hub id, or embedded:series/target for a try. "
            "With --task classification the labelled series: embedded:series/classes."
        }
    )
    source_series: list[str] = field(
        default_factory=list,
        metadata={"help": "Series to pretrain on, one or several, in place of --model_name_or_path."},
    )
    task: str = field(
        default=FORECASTING,
        metadata={
            "help": "forecasting: the next rows of a series. classification: what kind of series each one is.",
            "choices": [FORECASTING, CLASSIFICATION],
        },
    )
    context_length: int = field(default=336, metadata={"help": "Rows that a forecast is made from."})
    prediction_length: int = field(default=96, metadata={"help": "Rows that are forecast at a time, 1 to 720."})
    few: list[float] = field(
        default_factory=lambda: [1.0],
        metadata={
            "help": "Shares of the training rows to learn from, each in (0, 1]: 0.05 0.1 1.0 for a curve. The most "
            "recent rows are kept; evaluation and test part stay whole."
        },
    )
    strategies: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"Ways to train on the target, from {', '.join(STRATEGIES)}; by default all of these. Always "
            "among them: scratch and probe_scratch, which a verdict on transfer compares with."
        },
    )
    seeds: int = field(
        default=1, metadata={"help": "Repeat what is trained on the target with this many seeds from --seed on."}
    )
    date_column: str | None = field(default=None, metadata={"help": "Column of the dates; by default found by type."})
    channels: list[str] | None = field(
        default=None, metadata={"help": "Columns of the target to forecast; by default all that hold numbers."}
    )
    gaps: str = field(
        default="fill",
        metadata={
            "help": "Rows missing between two dates: fill adds them as missing values, refuse is an error.",
            "choices": ["fill", "refuse"],
        },
    )
    split_lengths: list[int] | None = field(
        default=None,
        metadata={
            "help": "Rows of training, evaluation and test part of the target, in this order of time: 8640 2880 2880 "
            "for ETTh1 and ETTh2 as in the literature; by default 0.7, 0.1 and 0.2 of the rows."
        },
    )
    season: int | None = field(
        default=None,
        metadata={"help": "Rows after which the series is alike (seasonal naive, MASE); by default of its step."},
    )
    label_column: str | None = field(default=None, metadata={"help": "For --task classification: the label column."})
    stages: int = field(default=4, metadata={"help": "Stages of strategy gradual."})
    lora_rank: int = field(default=8, metadata={"help": "Rank of strategy lora."})
    l2sp_weight: float = field(default=0.01, metadata={"help": "Weight of the pull of strategy l2sp."})
    pretrained_lr: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of weights that were pretrained; new ones (scratch, a new head, LoRA) have "
            "--learning_rate, and by default all do."
        },
    )
    early_stopping_patience: int = field(
        default=3,
        metadata={
            "help": "Stop a run after this many evaluations without a better one; 0 never. Strategy gradual always "
            "goes through its stages."
        },
    )
    resume: bool = field(default=True, metadata={"help": RESUME_HELP})

    def __post_init__(self):
        self.few = sorted(set(self.few)) or [1.0]
        for share in self.few:
            if not 0 < share <= 1:
                raise ValueError(
                    f"`--few {share:g}` is no share of the training rows: there is nothing, or more than all, to "
                    "learn from. Give shares in (0, 1], such as 0.05 0.1 1.0."
                )
        counts = {
            "context_length": (self.context_length, 4),
            "prediction_length": (self.prediction_length, 1),
            "seeds": (self.seeds, 1),
            "season": (self.season, 1),
            "stages": (self.stages, 2),
            "lora_rank": (self.lora_rank, 1),
            "early_stopping_patience": (self.early_stopping_patience, 0),
        }
        check_least(counts, cost="to look at, to forecast or to train")
        check_positive({"l2sp_weight": self.l2sp_weight, "pretrained_lr": self.pretrained_lr})
        if self.split_lengths is not None and len(self.split_lengths) != 3:
            raise ValueError(
                f"`--split_lengths {' '.join(map(str, self.split_lengths))}` are {len(self.split_lengths)} numbers: "
                "training, evaluation and test part need one each. Give three, such as 8640 2880 2880."
            )
        if self.task == FORECASTING:
            self.strategies = check_strategies(self.strategies)

    @property
    def lengths(self) -> tuple[int, int, int] | None:
        """Rows of the parts of the target, where they are given."""
        return None if self.split_lengths is None else (*self.split_lengths,)  # type: ignore[return-value]

    def check(self, model_args: ForecasterArguments, args: LoopArguments) -> None:
        """
        Refuse what contradicts itself, before anything is read.

        Raises:
            ValueError: as said.
        """
        named = model_args.model_name_or_path
        if named is not None and self.source_series:
            raise ValueError(
                f"`--source_series {' '.join(self.source_series)}` with `--model_name_or_path {named}`: both say what "
                "is transferred, and one would be ignored. Pass one of them."
            )
        if self.task == CLASSIFICATION:
            return  # it has checks of its own
        transfers = [name for name in self.strategies if STRATEGIES[name].pretrained]
        if transfers and named is None and not self.source_series:
            raise ValueError(
                f"`--strategies {' '.join(transfers)}` without a source: there is nothing to transfer. Pass "
                "`--source_series` to pretrain here, `--model_name_or_path` for a pretrained forecaster, or "
                "`--strategies scratch` to train without one."
            )
        if self.target_series in self.source_series:
            raise ValueError(
                f"`--source_series {self.target_series}` is the target too: what is held back as little data would "
                "have been learned from before. Name other series, or compare `--strategies scratch` alone."
            )
        if args.resume_from_checkpoint:
            raise ValueError(
                "`--resume_from_checkpoint` with several runs: it is not said which is meant. Leave it out: finished "
                "runs are taken from results.json, and the others start anew."
            )
        if self.prediction_length > LONGEST_HORIZON:
            logger.warning(
                f"`--prediction_length {self.prediction_length}` is beyond the usual {LONGEST_HORIZON} steps: "
                "the test part holds few windows that do not overlap, and differences will hardly be told from chance."
            )


@dataclass
class ForecasterArguments:
    """Which forecaster to start from, or how one is pretrained on the source series."""

    _argument_group_name = "the model"

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of a pretrained PatchTST or PatchTSMixer, in place of --source_series."},
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model on the Hub."})
    interpolate_positions: bool = field(
        default=False,
        metadata={"help": "Take a PatchTST to another context length by stretching its positions over the patches."},
    )
    kind: str = field(
        default="patchtst",
        metadata={
            "help": "Family of the model that is pretrained or built here.",
            "choices": [*KINDS],
        },
    )
    size: str = field(
        default="small", metadata={"help": "Its size: small has width 16, base 128 or 64.", "choices": [*SIZES]}
    )
    config_overrides: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Changes of its config, as JSON: {"patch_length": 24}.'}
    )
    pretraining: str = field(
        default="masked",
        metadata={
            "help": "masked: fill in hidden patches of the source series. supervised: forecast them; such a model "
            "also forecasts the target as it is (strategy zero_shot).",
            "choices": ["masked", "supervised"],
        },
    )
    pretraining_epochs: float = field(default=10.0, metadata={"help": "Passes over the windows of the source series."})
    pretraining_steps: int = field(
        default=-1, metadata={"help": "Steps of pretraining in place of --pretraining_epochs; -1 for those."}
    )
    pretraining_lr: float = field(default=1e-3, metadata={"help": "Learning rate of pretraining."})

    def __post_init__(self):
        if isinstance(self.config_overrides, str):
            self.config_overrides = json_object(
                "config_overrides",
                self.config_overrides,
                cost="the model would be another one",
                example='{"patch_length": 24}',
            )
        for option in ("pretraining_epochs", "pretraining_lr"):
            value = getattr(self, option)
            if value <= 0:
                raise ValueError(f"`--{option} {value}` pretrains nothing. Give more than 0.")
        if self.pretraining_steps == 0 or self.pretraining_steps < -1:
            raise ValueError(
                f"`--pretraining_steps {self.pretraining_steps}` pretrains nothing. Give 1 or more, or -1 for "
                "`--pretraining_epochs`."
            )
        if self.model_name_or_path is not None and self.config_overrides:
            raise ValueError(
                f"`--config_overrides` with `--model_name_or_path {self.model_name_or_path}`: the checkpoint has a "
                "config already, and its weights fit no other. Pass one of them."
            )


@dataclass(repr=False)
class SeriesLoopArguments(LoopArguments):
    """`LoopArguments` for forecasters: one rate for all, larger batches, the checkpoint of the lowest error kept."""

    per_device_train_batch_size: int = field(default=128, metadata={"help": "Windows of a batch on each device."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Windows of a batch that is scored."})
    learning_rate: float = field(
        default=1e-3, metadata={"help": "Learning rate of new weights, and of all without --pretrained_lr."}
    )
    head_lr: float | None = field(
        default=None, metadata={"help": "Leave it out: a new head has --learning_rate, a fitted one --pretrained_lr."}
    )
    max_steps: int = field(
        default=1000,
        metadata={
            "help": "Steps of each run, the same for all strategies and shares: with epochs, a model that has little "
            "data would also be trained little. -1 for --num_train_epochs."
        },
    )
    num_train_epochs: float = field(default=EPOCHS, metadata={"help": "With --max_steps -1: passes over the windows."})
    eval_strategy: str = field(default="steps", metadata={"help": "When to validate: no, steps or epoch."})
    save_strategy: str = field(default="steps", metadata={"help": "When to save a checkpoint: no, steps or epoch."})
    eval_steps: float | None = field(default=50, metadata={"help": "Steps from one validation to the next."})
    logging_strategy: str = field(
        default="steps", metadata={"help": "When to log the terms of the loss: no, steps or epoch."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Steps from one log to the next."})

    def __post_init__(self):
        if self.head_lr is not None:
            raise ValueError(
                f"`--head_lr {self.head_lr}`: whether a head is new hangs on the strategy, and one rate for all would "
                "favour some. Give `--learning_rate` for what is new and `--pretrained_lr` for what is not."
            )
        if self.max_steps > 0 and self.num_train_epochs != EPOCHS:
            raise ValueError(
                f"`--num_train_epochs {self.num_train_epochs:g}` with `--max_steps {self.max_steps}`: steps win, and "
                "the epochs would be ignored. Pass `--max_steps -1` to train for epochs, or leave the epochs out."
            )
        if self.eval_strategy == self.save_strategy == "steps" and self.eval_steps:
            self.save_steps = self.eval_steps  # the best checkpoint is one that was validated
        super().__post_init__()
