"""`TransferArguments`: the options of the training loop that `TrainingArguments` has not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from hf_transfer.json_options import json_object
from hf_transfer.lr_schedules import LR_SCHEDULES, OneCycle, SlantedTriangular, lr_layout


@dataclass(repr=False)  # the parent's masks the token
class TransferArguments(TrainingArguments):
    """
    `TrainingArguments` with a learning rate for each part of the model.

    `learning_rate` is the rate of whatever no option below names. Every rate becomes the `lr` of an optimizer group of
    its own, so each follows the scheduler in proportion. Hyper-parameters of a method belong to its objective.
    """

    head_lr: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the head; by default `learning_rate`. A new head usually wants 10 times as much."
        },
    )
    objective_lr: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the objectives' own parameters, such as a discriminator; by default that of the "
            "head."
        },
    )
    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "Factor in (0, 1] by which the learning rate falls from each block to the one below it; the "
            "topmost block gets `learning_rate * layer_decay`, the embeddings the least."
        },
    )
    learning_rates: dict[str, float] | str | None = field(
        default=None,
        metadata={
            "help": "Learning rates by name, before all other options: a part of the model (head, neck, block.3, "
            'block.0-5, embeddings) or a pattern over parameter names such as "*.attention.*". JSON on the command '
            "line. A later entry wins over an earlier one; one that matches nothing is an error."
        },
    )
    lora_plus_ratio: float = field(
        default=1.0,
        metadata={
            "help": "LoRA+: how many times faster than the rest the matrices B of LoRA learn, 16 in the paper; it "
            "multiplies whatever rate they have by the options above. 1.0 is plain LoRA."
        },
    )
    lr_schedule: str | None = field(
        default=None,
        metadata={
            "help": "Curve of the learning rate over the run, in place of `lr_scheduler_type`: slanted_triangular "
            "(a short rise, a long fall) or one_cycle (which cycles the momentum too).",
            "choices": list(LR_SCHEDULES),
        },
    )
    lr_schedule_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": 'Options of `lr_schedule`, such as {"cut_frac": 0.2}. JSON on the command line; the classes in '
            "`hf_transfer.lr_schedules` describe them."
        },
    )
    cache_frozen_prefix: bool = field(
        default=False,
        metadata={
            "help": "Store on disk what the frozen embeddings and blocks below the first trained one compute, once "
            "per training row, and start every later step above them. Needs a freezing schedule among the callbacks."
        },
    )
    frozen_prefix_max_gb: float = field(
        default=10.0,
        metadata={
            "help": "Most that the stored hidden states of one phase may take on disk, in GB; a phase that needs more "
            "trains without them."
        },
    )
    frozen_prefix_cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the stored hidden states; by default beside the cached features."},
    )
    push_objectives: bool = field(
        default=False,
        metadata={
            "help": "Push the state of the objectives (discriminators, projections) beside the model. Checkpoints "
            "that are pushed hold it anyway: a run goes on from there."
        },
    )

    recipe_options: ClassVar[Sequence[Any]] = ()
    """The other argument classes of a recipe, for `training_arguments.yaml`; set by `hf_transfer.recipe.parse`."""

    def __post_init__(self):
        if isinstance(self.learning_rates, str):
            self.learning_rates = json_object(
                "learning_rates", self.learning_rates, cost="the rates would be lost", example='{"head": 1e-3}'
            )
        if isinstance(self.lr_schedule_kwargs, str):
            self.lr_schedule_kwargs = json_object(
                "lr_schedule_kwargs",
                self.lr_schedule_kwargs,
                cost="the curve would be another",
                example='{"ratio": 32}',
            )
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"`layer_decay={self.layer_decay}` is outside (0, 1]: lower blocks would learn faster than upper ones "
                "or backwards. Give a factor such as 0.75, or 1.0 for none."
            )
        if not 0 < self.lora_plus_ratio < math.inf:
            raise ValueError(
                f"`lora_plus_ratio={self.lora_plus_ratio}` is no factor on a learning rate: B starts at zero, and "
                "would stay there or leave for infinity. Give a positive number such as 16, or 1.0 for plain LoRA."
            )
        # YAML reads 1e-3, without a point, as text.
        by_name = {name: float(rate) for name, rate in dict(self.learning_rates or {}).items()}
        self.learning_rates = by_name or None
        own = {"learning_rate": self.learning_rate, "head_lr": self.head_lr, "objective_lr": self.objective_lr}
        rates = {**own, **by_name}
        for name, rate in rates.items():
            if rate is not None and rate < 0:
                raise ValueError(
                    f"The learning rate {rate} of `{name}` is negative: it would climb the loss. Give zero (the part "
                    "stays as it is) or a positive rate."
                )
        _ = self.lr_layout  # what it refuses is refused now
        if self.frozen_prefix_max_gb <= 0:
            raise ValueError(
                f"`frozen_prefix_max_gb={self.frozen_prefix_max_gb}` leaves no room: nothing could be stored. Give a "
                "positive number of GB, or leave `cache_frozen_prefix` out."
            )

    def __getstate__(self) -> dict[str, Any]:
        # `Trainer` pickles its arguments into `training_args.bin` beside the model (transformers 5.23) and pushes
        # that.
        return {**self.__dict__, "hub_token": None}

    @property
    def rates_by_part(self) -> dict[str, Any]:
        """The options of `hf_transfer.optim.learning_rates`; empty where every parameter has the same rate."""
        of_parts = (self.head_lr, self.objective_lr, self.learning_rates)
        if self.layer_decay == self.lora_plus_ratio == 1 and not any(rate is not None for rate in of_parts):
            return {}
        return {
            "base": self.learning_rate,
            "head": self.head_lr,
            "objective": self.objective_lr,
            "layer_decay": self.layer_decay,
            "by_name": self.learning_rates,
            "lora_plus_ratio": self.lora_plus_ratio,
        }

    @property
    def lr_layout(self) -> SlantedTriangular | OneCycle | None:
        """
        The curve of the learning rate that `lr_schedule` names; `None` for that of `lr_scheduler_type`.

        Raises:
            ValueError: if it is unknown, has options it does not know, or meets other options for the same thing.
        """
        if self.lr_schedule is None:
            if self.lr_schedule_kwargs:
                raise ValueError(
                    f"`lr_schedule_kwargs={self.lr_schedule_kwargs}` without `lr_schedule`: the options would be "
                    f"ignored. Name one of {', '.join(LR_SCHEDULES)}, or use `lr_scheduler_kwargs` for the curves of "
                    "`lr_scheduler_type`."
                )
            return None
        layout = lr_layout(self.lr_schedule, cast("dict[str, Any] | None", self.lr_schedule_kwargs))
        others = {
            "lr_scheduler_type": str(SchedulerType(self.lr_scheduler_type).value),
            "warmup_steps": self.warmup_steps,
            "lr_scheduler_kwargs": self.lr_scheduler_kwargs,
        }
        others = {name: value for name, value in others.items() if value and value != "linear"}
        if others:
            seen = " and ".join(f"`{name}={value}`" for name, value in others.items())
            raise ValueError(
                f"`lr_schedule={self.lr_schedule!r}` with {seen}: the schedule has a curve and a rise of its own, and "
                "these would be ignored. Leave them out, or leave `lr_schedule` out; the length of the rise is an "
                "option in `lr_schedule_kwargs` (`cut_frac`, `pct_start`)."
            )
        if isinstance(layout, OneCycle) and layout.cycle_momentum and self.adam_beta1 != 0.9:
            raise ValueError(
                f"`adam_beta1={self.adam_beta1}` with `lr_schedule='one_cycle'`: the schedule cycles that beta "
                f"between {layout.base_momentum} and {layout.max_momentum} and yours would be ignored. Pass "
                'lr_schedule_kwargs={"cycle_momentum": false} to keep it, or leave it out.'
            )
        return layout
