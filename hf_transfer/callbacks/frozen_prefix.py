"""`CacheFrozenPrefix`: tells the frozen-prefix cache which phase of a schedule a step belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks.run import ScheduledRun
from hf_transfer.callbacks.unfreezing import UnfreezingSchedule, steps_per_epoch
from hf_transfer.frozen_prefix.extent import frozen_prefix
from hf_transfer.frozen_prefix.session import FrozenPrefix, release


__all__ = ["CacheFrozenPrefix"]


class CacheFrozenPrefix(TrainerCallback):
    """
    Start every step of a frozen phase above the frozen blocks; [`TransferTrainer`] adds it for `cache_frozen_prefix`.

    It comes after the schedule among the callbacks: when a phase begins the schedule freezes first.

    Args:
        schedule (`UnfreezingSchedule`):
            What freezes.
        session (`Callable[[nn.Module], FrozenPrefix]`):
            Puts the cache on the model of a run.
    """

    def __init__(self, schedule: UnfreezingSchedule, session: Callable[[nn.Module], FrozenPrefix]):
        self.schedule = schedule
        self._session = session
        self._cache: FrozenPrefix | None = None
        self._phase: int | None = None
        self._steps_per_epoch = 1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the cache on the model and begin the first phase, or that of a resumed run."""
        model = kwargs["model"]
        release(model)
        self._cache, self._phase = self._session(model), None
        self._steps_per_epoch = steps_per_epoch(args, state, kwargs["train_dataloader"])
        self._update(state)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Follow the schedule into the next phase."""
        self._update(state)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The backward is over."""
        if self._cache is not None:
            self._cache.forget()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The backward is over."""
        if self._cache is not None:
            self._cache.forget()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as it was found."""
        if self._cache is not None:
            self._cache.release()
            self._cache = None

    def _update(self, state: TrainerState) -> None:
        run = self.schedule.run
        if self._cache is None or run is None or run.index == self._phase:
            return
        self._phase = run.index
        model = self._cache.model
        parts = anatomy(model, head=self.schedule.head, blocks=self.schedule.blocks)
        prefix = frozen_prefix(model, parts)
        names = set() if prefix is None else set(prefix.parameters)
        steps = frozen_until(run, names, state.max_steps) - state.global_step
        self._cache.enter(prefix, epochs=steps / self._steps_per_epoch)


def frozen_until(run: ScheduledRun, names: set[str], max_steps: int) -> int:
    """
    The step at which one of these parameters thaws, as far as it is known; the end of training if none does.

    Args:
        run (`ScheduledRun`): the schedule in effect.
        names (`set[str]`): names of parameters that are frozen now.
        max_steps (`int`): steps of the run.
    """
    for trains, entry in list(zip(run.trains, run.entries, strict=True))[(run.index or 0) + 1 :]:
        if entry is not None and trains & names:
            return min(entry, max_steps)
    return max_steps
