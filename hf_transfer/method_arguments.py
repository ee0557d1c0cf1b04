"""`MethodArguments`: the ways to transfer as options of a recipe, and the objectives and callbacks they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_transfer import objectives as O
from hf_transfer.callbacks import (
    ExponentialMovingAverage,
    FreezeBackbone,
    FreezeBatchNorm,
    GradualUnfreezing,
    Mixout,
    StochNorm,
    UnfreezingSchedule,
)
from hf_transfer.features import fit_head
from hf_transfer.models import resolve_name
from hf_transfer.objective import Objective, TaskTerm
from hf_transfer.recipe_arguments import NEW_HEAD_LR, LoopArguments, ModelArguments
from hf_transfer.weights import reinitialize_blocks, transfer_parameters


logger = logging.get_logger(__name__)

__all__ = ["MethodArguments"]


def _weight(text: str) -> Any:
    return field(default=0.0, metadata={"help": f"Weight of {text}; 0 leaves it out."})


@dataclass
class MethodArguments:
    """How to transfer. Everything is off by default, and everything combines unless an error says why not."""

    _argument_group_name = "how to transfer"  # a heading of --help

    freeze: str = field(
        default="none",
        metadata={
            "help": "none trains everything, backbone the head only, gradual from the head down in --stages.",
            "choices": ["none", "backbone", "gradual"],
        },
    )
    stages: int = field(default=4, metadata={"help": "Stages of --freeze gradual."})
    schedule: str | None = field(
        default=None,
        metadata={
            "help": "Instead of --freeze: a YAML of phases, as `python -m hf_transfer schedule MODEL` writes it."
        },
    )
    freeze_batch_norm: bool = field(
        default=False, metadata={"help": "Keep the pretrained statistics of batch normalisation."}
    )
    probe_first: bool = field(
        default=False,
        metadata={
            "help": "Fit the head by logistic regression on frozen features before fine-tuning (LP-FT); the head then "
            "has --learning_rate unless --head_lr says otherwise."
        },
    )
    transfer_from: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of a checkpoint whose weights replace those that fit, with a report."},
    )
    transfer_blocks: int | None = field(
        default=None, metadata={"help": "With --transfer_from: take embeddings and this many lowest blocks only."}
    )
    reinitialize_blocks: int = field(default=0, metadata={"help": "Draw this many topmost blocks anew."})
    source_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Source model with its own head for --lwf and --co_tuning; by default --model_name_or_path."
        },
    )
    l2sp: float = _weight("the pull to the pretrained weights (L2-SP), such as 0.01")
    delta: float = _weight("the pull to the pretrained outputs of blocks (DELTA), such as 0.1")
    delta_attention: bool = field(
        default=True,
        metadata={"help": "Weigh channels for --delta by what they do for the task; slow to work out on a CPU."},
    )
    bss: float = _weight("batch spectral shrinkage (BSS), such as 0.001")
    lwf: float = _weight("learning without forgetting (LwF), such as 1")
    co_tuning: float = _weight("co-tuning of the source head, such as 2.3")
    bi_tuning: float = _weight("bi-tuning (contrast with a queue per class), such as 1")
    supervised_contrastive: float = _weight("the supervised contrast within a batch (SupCon), such as 0.1")
    r_drop: float = _weight("the divergence of two dropout passes (R-Drop), such as 0.5")
    label_smoothing: float = field(default=0.0, metadata={"help": "Share of the target spread over all classes."})
    focal_gamma: float = field(default=0.0, metadata={"help": "Exponent of the focal loss, such as 2; 0 is none."})
    class_balanced: float = field(
        default=0.0,
        metadata={"help": "Beta of class-balanced weights for skewed labels, such as 0.999; 0 leaves them out."},
    )
    mixup: float = field(default=0.0, metadata={"help": "Alpha of mixup of images, such as 0.2; 0 is none."})
    cutmix: float = field(default=0.0, metadata={"help": "Alpha of CutMix of images, such as 1; 0 is none."})
    mixout: float = field(
        default=0.0, metadata={"help": "Probability of putting a weight back to its pretrained value for a step."}
    )
    stoch_norm: float = field(
        default=0.0, metadata={"help": "Probability of normalising a channel by moving statistics (StochNorm)."}
    )
    ema: float = field(default=0.0, metadata={"help": "Decay of the average of the weights, such as 0.999."})
    wise_ft: bool = field(
        default=False,
        metadata={
            "help": "Mix start and fine-tuned weights at the end, as validates best by --metric_for_best_model "
            "(WiSE-FT). Where the head is new take it with --probe_first: the start must know the task."
        },
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after this many evaluations without a better one; 0 never stops early."}
    )

    def __post_init__(self):
        if self.schedule is not None and self.freeze != "none":
            raise ValueError(
                f"`--schedule {self.schedule}` with `--freeze {self.freeze}`: two plans of what trains when, of which "
                "one would be ignored. Pass one of them."
            )
        if self.schedule is not None and not Path(self.schedule).is_file():
            raise FileNotFoundError(
                f"`--schedule {self.schedule}`: there is no such file, and nothing would be frozen. Write one with "
                "`python -m hf_transfer schedule MODEL --out schedule.yaml`."
            )
        if self.freeze_batch_norm and self.stoch_norm:
            raise ValueError(
                f"`--freeze_batch_norm` with `--stoch_norm {self.stoch_norm}`: one never looks at the batch, the "
                "other mixes its statistics in. Pass one of them."
            )
        if self.mixup and self.cutmix:
            raise ValueError(
                f"`--mixup {self.mixup}` with `--cutmix {self.cutmix}`: images mixed twice no longer fit their mixed "
                "targets. Pass one of them."
            )
        if self.transfer_blocks is not None and self.transfer_from is None:
            raise ValueError(
                f"`--transfer_blocks {self.transfer_blocks}` without `--transfer_from`: there is no checkpoint to "
                "take blocks from. Name it, or leave the option out."
            )

    @property
    def needs_validation(self) -> bool:
        """Whether something is chosen by a validation split."""
        return self.wise_ft or self.early_stopping_patience > 0

    def check(self, model_args: ModelArguments, args: LoopArguments) -> None:
        """
        Refuse what cannot work together, before anything is loaded.

        Raises:
            ValueError: if a method looks back at pretrained weights and there are none.
        """
        scratch = model_args.model_type is not None and self.transfer_from is None
        for option in ("l2sp", "delta", "mixout", "wise_ft", "probe_first"):
            if scratch and getattr(self, option):
                raise ValueError(
                    f"`{self._told(option)}` with `--model_type {model_args.model_type}`: it would hold the model to "
                    f"random weights. Pass a pretrained model with `--model_name_or_path`, or leave `--{option}` out."
                )
        if (self.lwf or self.co_tuning) and self._source(model_args) is None:
            raise ValueError(
                "`--lwf` and `--co_tuning` ask a source model for its own classes, and there is none. Pass it with "
                "`--source_name_or_path`."
            )
        if self.early_stopping_patience and not args.load_best_model_at_end:
            raise ValueError(
                f"`--early_stopping_patience {self.early_stopping_patience}` without a validation whose best "
                "checkpoint is kept: nothing tells when to stop. Leave `--eval_strategy` and `--save_strategy` the "
                "same and not no; or pass 0."
            )

    def _source(self, model_args: ModelArguments) -> str | None:
        return self.source_name_or_path or model_args.model_name_or_path

    def initialise(
        self,
        model: nn.Module,
        batches: Callable[[], Iterable[Mapping[str, Any]]],
        args: LoopArguments,
        *,
        seed: int | None = None,
    ) -> None:
        """
        Change the weights that training starts from.

        Args:
            model (`nn.Module`): the model, with its head for the target classes.
            batches (`Callable`): gives collated batches of the training data without augmentation, for the probe.
            args (`LoopArguments`): the loop; its `head_lr` gives way where the head is no longer new.
            seed (`int`, *optional*): of the probe's folds; by default that of `args`.
        """
        if self.transfer_from is not None:
            transfer_parameters(model, resolve_name(self.transfer_from), blocks=self.transfer_blocks)  # logs a report
        if self.reinitialize_blocks:
            names = reinitialize_blocks(model, self.reinitialize_blocks)
            logger.info(f"{len(names)} tensors are drawn anew, in the topmost blocks ({self.reinitialize_blocks}).")
        if self.probe_first:
            probe = fit_head(model, batches(), seed=args.seed if seed is None else seed)
            validated = f", cross-validated score {max(probe.scores.values()):.4f}" if probe.scores else ""
            logger.info(f"The head starts from a probe on {probe.rows} rows (strength {probe.strength:g}{validated}).")
            if args.head_lr == NEW_HEAD_LR:
                args.head_lr = None

    def objectives(self, model_args: ModelArguments) -> list[Objective]:
        """The terms of the loss; those that change the targets come first."""
        return list(self._objectives(model_args).values())

    def weighted(self, model_args: ModelArguments) -> dict[str, tuple[str, float]]:
        """Name and weight of the terms that are on, by their options."""
        terms = self._objectives(model_args).items()
        return {option: (term.name, getattr(self, option)) for option, term in terms if not isinstance(term, TaskTerm)}

    def _objectives(self, model_args: ModelArguments) -> dict[str, Objective]:
        source = self._source(model_args)
        options = {"revision": model_args.model_revision, "trust_remote_code": model_args.trust_remote_code}
        load = cache(lambda: _loaded(source, options))  # one for all that ask it
        made: dict[str, Callable[[float], Objective]] = {
            "mixup": lambda alpha: O.Mixup(alpha=alpha),
            "cutmix": lambda alpha: O.CutMix(alpha=alpha),
            "label_smoothing": lambda share: O.LabelSmoothing(smoothing=share),
            "class_balanced": lambda beta: O.ClassBalanced(beta=beta),
            "focal_gamma": lambda gamma: O.FocalLoss(gamma=gamma),
            "r_drop": lambda weight: O.RDrop(weight=weight),
            "l2sp": lambda weight: O.L2SP(weight=weight),
            "delta": lambda weight: O.DELTA(attention=self.delta_attention, weight=weight),
            "bss": lambda weight: O.BatchSpectralShrinkage(weight=weight),
            "lwf": lambda weight: O.LearningWithoutForgetting(load(), weight=weight),
            "co_tuning": lambda weight: O.CoTuning(load(), weight=weight),
            "bi_tuning": lambda weight: O.BiTuning(weight=weight),
            "supervised_contrastive": lambda weight: O.SupervisedContrastive(weight=weight),
        }
        return {option: make(getattr(self, option)) for option, make in made.items() if getattr(self, option)}

    def callbacks(self) -> list[TrainerCallback]:
        """What rules the weights while they train, and early stopping."""
        freezing: dict[str, Callable[[], TrainerCallback | None]] = {
            "none": lambda: None,
            "backbone": FreezeBackbone,
            "gradual": lambda: GradualUnfreezing(stages=self.stages),
        }
        chosen = [
            UnfreezingSchedule(self.schedule) if self.schedule else freezing[self.freeze](),
            FreezeBatchNorm() if self.freeze_batch_norm else None,
            Mixout(self.mixout) if self.mixout else None,
            StochNorm(self.stoch_norm) if self.stoch_norm else None,
            ExponentialMovingAverage(self.ema) if self.ema else None,
            _EarlyStopping(self.early_stopping_patience) if self.early_stopping_patience else None,
        ]
        return [callback for callback in chosen if callback is not None]

    def describe(self) -> str:
        """The options that differ from their defaults, as on a command line."""
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return " ".join(map(self._told, changed))

    def _told(self, option: str) -> str:
        value = getattr(self, option)
        return f"--{option}" if value is True else f"--{option} {value}"


class _EarlyStopping(EarlyStoppingCallback):
    """Without the warning that no best model is loaded: in the trials of a search none is kept, on purpose."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """`MethodArguments.check` has looked at what the stock callback asserts here."""


def _loaded(name: str | None, options: Mapping[str, Any]) -> Any:
    from hf_transfer.source import Source

    assert name is not None  # `check` saw to it
    return Source(name, **options)
