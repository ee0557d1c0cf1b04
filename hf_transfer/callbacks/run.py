"""`ScheduledRun`: a freezing schedule in effect."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainerState
from transformers.utils import logging

from hf_transfer.callbacks.checks import check_metrics, check_scheduler, check_thawable
from hf_transfer.callbacks.freezer import Freezer
from hf_transfer.callbacks.phases import Phase
from hf_transfer.callbacks.rates import set_phase_rate
from hf_transfer.callbacks.selection import select_parameters
from hf_transfer.callbacks.summary import summary_table
from hf_transfer.callbacks.timeline import current_phase


logger = logging.get_logger(__name__)


class ScheduledRun:
    """
    One training run under a schedule: finds the phase of each step and puts it into effect.

    Args:
        model (`nn.Module`): the model as trained, not its DDP wrapper.
        parts (`Mapping[str, Sequence[str]]`): its parameter names by part.
        phases (`Sequence[Phase]`): the phases.
        entries (`Sequence[int | None]`): their entry steps.
        optimizer (`torch.optim.Optimizer`): the optimizer, which must hold all that will ever train.
        scheduler (`LRScheduler`): the learning-rate scheduler; only touched if a phase sets a rate.
        norm_only (`bool`): see [`Freezer`].
        run (`object`): identifies the run, see [`Freezer`].

    Raises:
        ValueError: if a phase trains nothing, or cannot train what it names.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Mapping[str, Sequence[str]],
        phases: Sequence[Phase],
        entries: Sequence[int | None],
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler,
        *,
        norm_only: bool = False,
        run: object = None,
    ):
        self.parts, self.phases, self.entries = parts, phases, entries
        self.optimizer = optimizer
        self.scheduler = check_scheduler(scheduler) if any(phase.sets_rate for phase in phases) else None
        parameters = dict(model.named_parameters())
        selected = [select_parameters(parts, phase.train, without=phase.freeze) for phase in phases]
        check_thawable(model, set().union(*selected), optimizer, parameters)
        ruled = {
            name: parameters[name] for names in parts.values() for name in names if parameters[name].requires_grad
        }
        self.trains = [names & ruled.keys() for names in selected]
        for number, (phase, names) in enumerate(zip(phases, self.trains, strict=True), start=1):
            if not names:
                raise ValueError(
                    f"Phase {number} ({phase}) trains nothing - the model has no such part, or PEFT froze it - name "
                    "another part, or list the head under `modules_to_save` of the PEFT configuration."
                )
        self.freezer = Freezer(model, ruled, norm_only=norm_only, run=run)
        self.index: int | None = None
        self._logs_seen = -1

    def update(self, state: TrainerState) -> None:
        """Enter the phase that the next optimizer step belongs to, if it is not in effect."""
        if len(state.log_history) != self._logs_seen:
            self._logs_seen = len(state.log_history)
            check_metrics(self.phases, state.log_history)
        index = current_phase(self.phases, self.entries, step=state.global_step, log_history=state.log_history)
        if index != self.index:
            self._enter(index, state)

    def _enter(self, index: int, state: TrainerState) -> None:
        first, self.index = self.index is None, index
        self.freezer.train_only(self.trains[index])
        if self.scheduler is not None:
            set_phase_rate(self.scheduler, self.phases[index])
        if not first and (dynamo := sys.modules.get("torch._dynamo")) is not None:
            # Compiled code would go on with the gradients of the phase before (pytorch#139476). Importing the compiler
            # takes longer than many a run: nothing is compiled where nobody did.
            dynamo.reset()
        if state.is_world_process_zero:
            logger.info(f"Step {state.global_step}: phase {index + 1} of {len(self.phases)}, {self.phases[index]}")

    def end(self) -> None:
        """Leave model and scheduler as they were found."""
        self.freezer.release()
        if self.scheduler is not None:
            set_phase_rate(self.scheduler, Phase(train="all"))

    def summary(self) -> str:
        """Table of what trains in which phase, at which learning rate before the scheduler's factor."""
        default = self.optimizer.defaults.get("lr", 0.0)
        held = {
            id(parameter): group.get("max_lr", group.get("initial_lr", group["lr"]))  # one-cycle starts below its peak
            for group in self.optimizer.param_groups
            for parameter in group["params"]
        }
        columns: list[tuple[str, dict[str, Any]]] = []
        for phase, entry, names in zip(self.phases, self.entries, self.trains, strict=True):
            heading = phase.name or (phase.entry if entry is None else f"step {entry}")
            rates = {name: phase.rate(held[id(self.freezer.parameters[name])], default) for name in names}
            columns.append((heading, rates))
        sizes = {name: parameter.numel() for name, parameter in self.freezer.model.named_parameters()}
        return summary_table(self.parts, sizes, columns)
