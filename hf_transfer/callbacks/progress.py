"""`TrackProgress`: tells the objectives of a model how much of the training is done."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_transfer.attach import CHILD


class TrackProgress(TrainerCallback):
    """
    Sets the progress of a model's objectives at the start of each optimizer step, so that their schedules advance.

    `TransferTrainer` has it built in; add it to a stock `Trainer` that trains a model with `attach`ed objectives.
    Progress is a function of the trainer's own step count: accumulation does not advance it and a resumed run
    continues exactly.
    """

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Set the progress to `global_step / max_steps`."""
        objectives = getattr(model, CHILD, None)
        if objectives is not None:
            objectives.attachment.progress = state.global_step / max(state.max_steps, 1)
