"""`UnfreezingSchedule`: train a different part of the model in each phase of a run."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length
from transformers.utils import logging

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks.checks import check_arguments, check_checkpointing, check_evaluation
from hf_transfer.callbacks.freezer import release
from hf_transfer.callbacks.phases import Phase, parse_phases
from hf_transfer.callbacks.run import ScheduledRun
from hf_transfer.callbacks.selection import select_parameters
from hf_transfer.callbacks.summary import summary_table
from hf_transfer.callbacks.timeline import entry_steps, late_phases


logger = logging.get_logger(__name__)


class UnfreezingSchedule(TrainerCallback):
    """
    Train a different part of the model in each phase of a run, in any `Trainer`.

    A phase is a pure function of the optimizer step and the logged evaluations, both of which live in the
    `TrainerState`: nothing is counted here, so a resumed run continues bit for bit. Freezing happens when training
    begins, after the optimizer was created with everything that will ever train; phases change between optimizer
    steps, never within an accumulation window. Frozen modules are in evaluation mode. When training ends,
    `requires_grad` is as it was before.

    Args:
        phases (`str`, `os.PathLike`, `Sequence` or `Mapping`):
            A YAML file, or what it holds: a list of phases (see [`Phase`]), or a mapping of names to phases. `train`
            names all that trains in the phase: `head`, `neck`, `embeddings`, `block.3`, `block.-1`, `block.8-11`,
            `all`, or shell patterns over parameter names.
        norm_only (`bool`, *optional*, defaults to `False`):
            Put only frozen layers with running statistics to evaluation mode; keep the dropout of frozen parts on.
        head (`str`, *optional*):
            Name of the head module, where [`anatomy`] cannot find it.
        blocks (`str` or `Sequence[str]`, *optional*):
            Names of the blocks, where [`anatomy`] cannot find them.

    Raises:
        ValueError: at construction if the phases contradict each other; when the Trainer is built if a pattern selects
            nothing or the training arguments do not allow thawing; when training begins if a parameter is scheduled to
            train that the optimizer does not hold, or a rate is set for a scheduler that cannot follow.

    Relations:
        [`GradualUnfreezing`] writes the usual phases for you; [`FreezeBackbone`] is the case of one phase.

    Example:
        >>> schedule = UnfreezingSchedule(
        ...     [
        ...         {"train": ["head"]},
        ...         {"epoch": 1, "train": ["head", "neck", "block.-4--1"], "lr_scale": 0.5},
        ...         {"when": {"metric": "loss", "patience": 2}, "train": "all", "lr": 1e-5},
        ...     ]
        ... )
        >>> print(schedule)
        UnfreezingSchedule
          1. start: head
          2. epoch 1: head, neck, block.-4--1 (learning rate x 0.5)
          3. eval_loss plateau (2): all (learning rate 1e-05)
    """

    def __init__(
        self,
        phases: str | os.PathLike[str] | Sequence[Any] | Mapping[str, Any],
        *,
        norm_only: bool = False,
        head: str | None = None,
        blocks: str | Sequence[str] | None = None,
    ):
        if isinstance(phases, (str, os.PathLike)):
            phases = yaml.safe_load(Path(phases).read_text(encoding="utf-8"))
        self.phases = parse_phases(phases)
        self.norm_only = norm_only
        self.head = head
        self.blocks = blocks
        self._run: ScheduledRun | None = None

    @property
    def run(self) -> ScheduledRun | None:
        """The training run in which the schedule is in effect, if there is one."""
        return self._run

    def plan(self, parts: Mapping[str, Sequence[str]]) -> tuple[Phase, ...]:
        """The phases for a model with these parts."""
        return self.phases

    def parts(self, model: Any) -> dict[str, list[str]]:
        """Parameter names of `model` by part."""
        return anatomy(model, head=self.head, blocks=self.blocks).parts()

    def summary(self, model: Any, *, learning_rate: float | None = None) -> str:
        """Table of what trains in which phase of `model`, at which learning rate before the scheduler's factor."""
        parts = self.parts(model)
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        columns = []
        for phase in self.plan(parts):
            rate = None if learning_rate is None else phase.rate(learning_rate, learning_rate)
            selected = select_parameters(parts, phase.train, without=phase.freeze)
            columns.append((phase.name or phase.entry, dict.fromkeys(selected, rate)))
        return summary_table(parts, sizes, columns)

    def to_yaml(self, model: Any = None) -> str:
        """The phases as YAML, to edit and pass back as a file; `model` is needed if they depend on it."""
        phases = self.plan({} if model is None else self.parts(model))
        return yaml.safe_dump(
            {"phases": [phase.to_dict() for phase in phases]}, sort_keys=False, default_flow_style=None, width=119
        )

    def __str__(self) -> str:
        return "\n".join(
            [type(self).__name__, *(f"  {number}. {phase}" for number, phase in enumerate(self.phases, 1))]
        )

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse what cannot work before any data is read, and free the model of what a crashed run left on it."""
        model = kwargs["model"]
        release(model)
        check_arguments(args, model)
        parts = self.parts(model)
        phases = self.plan(parts)
        check_evaluation(args, phases)
        for phase in phases:
            select_parameters(parts, phase.train, without=phase.freeze)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Freeze, now that the optimizer holds everything that will ever train."""
        model = kwargs["model"]
        release(model, run=state)
        check_arguments(args, model)
        check_checkpointing(model)
        parts = self.parts(model)
        phases = self.plan(parts)
        check_evaluation(args, phases)
        entries = entry_steps(
            phases,
            max_steps=state.max_steps,
            steps_per_epoch=steps_per_epoch(args, state, kwargs["train_dataloader"]),
        )
        self._run = ScheduledRun(
            model,
            parts,
            phases,
            entries,
            kwargs["optimizer"],
            kwargs["lr_scheduler"],
            norm_only=self.norm_only,
            run=state,
        )
        self._run.update(state)
        if state.is_world_process_zero:
            logger.info(f"{type(self).__name__}\n{self._run.summary()}")
            for warning in late_phases(phases, entries, state.max_steps):
                logger.warning(warning)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Change the phase where one begins: always before the first micro-batch of an optimizer step."""
        if self._run is not None:
            self._run.update(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave `requires_grad`, hooks and learning rates as they were before training."""
        if self._run is not None:
            self._run.end()
            self._run = None


def steps_per_epoch(args: TrainingArguments, state: TrainerState, dataloader: Any) -> int:
    """Optimizer steps in one pass over the training data."""
    # As `Trainer.set_initial_training_values` counts them; a stream has one epoch as long as the training.
    if not has_length(dataloader):
        return state.max_steps
    return max(math.ceil(len(dataloader) / args.gradient_accumulation_steps), 1)
